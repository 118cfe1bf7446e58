module kata-dind.io/tests/reaper

go 1.21
