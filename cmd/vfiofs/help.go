package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// description heads the help text.
const description = `vfiofs shares a directory of this machine with a virtual machine (virtio-fs over vhost-user).

Examples:

  Share a directory, and wait for the virtual machine monitor to connect:
    vfiofs --socket /run/fs.sock --tag home --shared-dir /srv/home

  The matching QEMU options; guest memory must be shared:
    -object memory-backend-memfd,id=mem,size=4G,share=on -machine memory-backend=mem
    -chardev socket,id=fs,path=/run/fs.sock
    -device vhost-user-fs-pci,chardev=fs,tag=home,queue-size=1024

  In the guest:
    mount -t virtiofs home /mnt

  A share that only this guest changes, with everything cached:
    vfiofs --socket /run/fs.sock --tag data --shared-dir /srv/data --cache always --writeback

  The same from inside a device VM, for a sibling VM; the host runs only the proxy:
    vfiofs vfio bind 0000:00:07.0
    vfiofs --vfio 0000:00:07.0 --tag home --shared-dir /srv/home

Durations are written 500ms, 5s, 1m or 24h. The daemon stays in the foreground, logs to standard
error, and ends with exit code 0 on SIGTERM, SIGINT and SIGHUP.

--help-all lists the rare options, too. Options of serve may also stand in the environment
(VFIOFS_CACHE=always) and in the file of --config (a line: cache = always). Arguments count more
than --cfg, that more than the environment, and that more than the file.`

// groups orders the help text.
func groups() []kong.Group {
	return []kong.Group{
		{Key: "share", Title: "What to share, and with whom:"},
		{Key: "cache", Title: "What the guest may cache:"},
		{Key: "files", Title: "File system features:"},
		{Key: "speed", Title: "Threads and queues:"},
		{Key: "sockets", Title: "Whom to connect:"},
		{Key: "memory", Title: "Memory of siblings:"},
		{Key: "driver", Title: "The function:"},
		{Key: "mount", Title: "What to mount, and how:"},
		{Key: "bench", Title: "What to measure:"},
		{Key: "process", Title: "The process:"},
	}
}

// help prints, for the bare command, the options of serve too: they are what a
// newcomer looks for.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if ctx.Selected() == nil {
		options.NoAppSummary = true
		fmt.Fprintln(ctx.Stdout, "Usage: vfiofs [serve] (--socket PATH | --vfio FUNCTION) --tag NAME --shared-dir DIR [flags]")
		ctx.Model.Flags = append(ctx.Model.Flags, ctx.Model.DefaultCmd.Flags...)
	}
	return kong.DefaultHelpPrinter(options, ctx)
}
