module vfiofs

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/google/go-cmp v0.7.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/rogpeppe/go-internal v1.16.0
	github.com/u-root/u-root v0.16.0
	golang.org/x/sys v0.49.0
)

require golang.org/x/tools v0.38.0 // indirect
