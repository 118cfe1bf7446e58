// The versions of the interfaces that scripts/generate_cri.py makes messages from.
module kata-dind.io/cri

go 1.26.0

require (
	github.com/containerd/containerd/api v1.12.0
	k8s.io/cri-api v0.37.2
)
