"""The command line: one file per verb, and the only room that prints.

Parsing and printing only. What a command does, it does through `kata_dind.sandbox.api` and `kata_dind.image`, imported
inside the command, so that `--help` and completion stay quick. Errors pass through; `__main__` turns them into exit
codes. Answers go to stdout; progress, warnings and errors go to stderr.
"""
