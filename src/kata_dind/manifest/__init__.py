"""Manifests as text: documents are read from YAML, JSON and TOML, and changed without touching other lines.

Pure: text in, text out. What is wrong with a text is one SpecError with the file's name and line. It knows nothing of
pods. YAML is read as kubectl reads it: by the rules of sigs.k8s.io/yaml, where `yes` is true and 0777 is octal.
"""

from kata_dind.manifest.documents import Document, read_documents

__all__ = ["Document", "read_documents"]
