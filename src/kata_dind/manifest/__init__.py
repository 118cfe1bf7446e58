"""Manifests as text: documents are read from YAML, JSON and TOML, and changed without touching other lines.

Pure: text in, text out. What is wrong with a text is one SpecError with the file's name and line. It knows nothing of
pods. YAML is read as kubectl reads it: by the rules of sigs.k8s.io/yaml, where `yes` is true and 0777 is octal.
"""

from kata_dind.manifest.documents import Document, read_documents
from kata_dind.manifest.edit import edited, line_of, rewritten
from kata_dind.manifest.emit import dumped
from kata_dind.manifest.yaml_text import parse_yaml

__all__ = ["Document", "dumped", "edited", "line_of", "parse_yaml", "read_documents", "rewritten"]
