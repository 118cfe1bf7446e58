#!/bin/sh
# Stands before containerd in the images that kata-dind builds; dockerd finds it first.
#
# An idle containerd looks whether there is garbage after fifty times what a collection takes, ten to thirty times a
# second: https://github.com/containerd/containerd/issues/4886. A hundred idle machines pay for that with half a
# processor. Here it is told by what is deleted, a second later, and looks by itself once in a minute or so.
set -eu

# Only dockerd's own way to start it, since there is no option for a setting; when dockerd starts it again, the file is
# as we left it.
if [ "${1-}" = --config ] && [ -w "${2-}" ] && ! grep -q scheduler "$2"; then
	plugin=scheduler
	! grep -Eq '^version = [2-9]' "$2" || plugin='"io.containerd.gc.v1.scheduler"'
	cat >>"$2" <<-END

		[plugins.$plugin]
		  pause_threshold = 0.00002
		  deletion_threshold = 1
		  schedule_delay = "1s"
	END
fi
exec /usr/bin/containerd "$@"
