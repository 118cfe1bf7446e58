"""Manifests for the tests of `fix`: what needs a repair on Kata, and what must stay as it is."""

from __future__ import annotations

DIND = """\
# A pod of ours; this comment stays.
apiVersion: v1
kind: Pod
metadata: {name: ci, namespace: build}
spec:
  runtimeClassName: kata-qemu   # a VM
  containers:
  - name: dind
    image: docker:27-dind
    securityContext: {privileged: yes}
"""

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: docker}   # untouched
spec:
    ports:
        - {port: 2375}
"""

PLAIN = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  runtimeClassName: kata-qemu
  containers: [{name: web, image: "nginx:1.27"}]
"""

ON_THE_NODE = DIND.replace("  runtimeClassName: kata-qemu   # a VM\n", "")

HOST_PATH = """\
apiVersion: v1
kind: Pod
metadata: {name: on-host, namespace: build}
spec:
  runtimeClassName: kata-qemu
  containers:
  - name: dind
    image: docker:27-dind
    securityContext: {privileged: true}
    volumeMounts: [{name: data, mountPath: /var/lib/docker}]
  volumes: [{name: data, hostPath: {path: /srv/docker}}]
"""
"""What a repair leaves alone, and names."""

HELM = """\
{{- if .Values.enabled }}
apiVersion: v1
kind: Pod
{{- end }}
"""


def deployment(number: int) -> str:
    """Return one of many, every tenth with a Docker in it."""
    image, runtime_class = ("docker:27-dind", "kata-qemu") if number % 10 == 0 else ("nginx:1.27", "runc")
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{number}
  namespace: team-{number % 7}
  labels: {{app: app-{number}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: app-{number}}}}}
  template:
    metadata:
      labels: {{app: app-{number}}}
    spec:
      runtimeClassName: {runtime_class}
      containers:
      - name: main
        image: {image}
        securityContext: {{privileged: true}}
        env:
        - name: NUMBER
          value: "{number}"
        resources:
          requests: {{cpu: 100m, memory: 128Mi}}
"""
