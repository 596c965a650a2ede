package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"

	"vfiofs/internal/jail"
	"vfiofs/internal/unixsock"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/vvu/proxy"
)

// Proxy holds the options of the proxy command.
type Proxy struct {
	Socket       string `group:"sockets" required:"" placeholder:"PATH" help:"Unix socket for the QEMU of siblings (vhost-user): the virtual machines that mount the share, one at a time."`
	DeviceSocket string `group:"sockets" required:"" placeholder:"PATH" help:"Unix socket for the QEMU of the device VM (vfio-user), or for vfiofs --vfio PATH."`

	MemSize byteSize `group:"memory" placeholder:"SIZE" help:"Size of a sibling's RAM, for example 4G. It is the size of the memory file and must cover all RAM of the largest sibling."`
	MemPath string   `group:"memory" placeholder:"FILE" help:"Memory file, on tmpfs or hugetlbfs; it is made if it does not exist, and stays. Without it, the memory is anonymous and lives as long as the proxy."`

	Profile  proxy.Profile `group:"driver" placeholder:"NAME" values:"crosvm,dpdk" default:"crosvm" help:"Driver to expect: crosvm (vfiofs, crosvm) or dpdk (DPDK, SPDK, QEMU's prototype). Default: ${default}."`
	MemRule  *proxy.Rule   `group:"driver" placeholder:"RULE" help:"How the driver finds memory: direct, stack or gpa-linear. Default: direct for profile crosvm, stack for dpdk."`
	DeviceID deviceID      `name:"device-id" group:"driver" placeholder:"ID" help:"PCI device id in hexadecimal, for example 106b. Default: 107d for profile crosvm, 1058 for dpdk."`
	Queues   int           `group:"driver" placeholder:"N" default:"256" help:"Virtqueues that a sibling may use, 1 to 1023. Default: ${default}."`

	Confine       `embed:""`
	PrintQEMUArgs bool   `name:"print-qemu-args" group:"process" help:"Print the options for both QEMUs to standard output once the sockets are there, and go on serving."`
	LogLevel      string `group:"process" placeholder:"LEVEL" enum:"error,warn,info,debug,trace,off" default:"info" help:"error, warn, info, debug, trace or off. Default: ${default}."`
	LogFormat     string `group:"process" placeholder:"FORMAT" enum:"text,json" default:"text" help:"text or json, one line per event. Default: ${default}."`
}

// Help is shown by "vfiofs proxy --help".
func (*Proxy) Help() string {
	return `The proxy connects a device VM, which runs "vfiofs --vfio", with siblings, which mount what it
shares. It shows the device VM a PCI function (virtio-vhost-user), and is all that runs on the
host: the files are the device VM's. Both QEMUs are stock; the device VM's is 10.1 or later.

The RAM of a sibling is the memory file, and so is a BAR of the function. --print-qemu-args prints
what both QEMUs have to be told. A device VM or a sibling may leave and come back at any time; the
proxy goes on.`
}

// A byteSize is a number of bytes, written with a suffix: K, M, G or T.
type byteSize int64

// UnmarshalText parses a size.
func (s *byteSize) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	if i := strings.IndexAny(number, "KMGTkmgt"); i >= 0 && i == len(number)-1 {
		shift = 10 * (1 + strings.IndexByte("kmgt", number[i]|0x20))
		number = number[:i]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n<<shift>>shift != n {
		return fmt.Errorf("size %q: want a number of bytes, or one with K, M, G or T, for example 4G", text)
	}
	*s = byteSize(n << shift)
	return nil
}

// A deviceID is a PCI device id.
type deviceID uint16

// UnmarshalText parses an id.
func (d *deviceID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0x"), 16, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("device id %q: want four hexadecimal digits, for example 107d", text)
	}
	*d = deviceID(n)
	return nil
}

// check refuses what can't work before anything is opened.
func (p *Proxy) check() error {
	switch {
	case p.Socket == "" || p.DeviceSocket == "":
		return usage("--socket and --device-socket must not be empty")
	case filepath.Clean(p.Socket) == filepath.Clean(p.DeviceSocket):
		return usage("--socket and --device-socket are the same: they speak different protocols")
	case p.MemSize == 0 && p.MemPath == "":
		return usage("--mem-size is missing: give the size of a sibling's RAM, for example 4G")
	case p.Queues < 1 || p.Queues > proxy.MaxQueues:
		return usage("--queues is %d; want 1 to %d", p.Queues, proxy.MaxQueues)
	}
	return nil
}

// run is the proxy's life: memory, sockets, device, and one device VM after another until
// ctx ends.
func (p *Proxy) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	plan := p.plan()
	cell, err := plan.Enter()
	if err == nil && cell == nil {
		err = errors.Join(p.check(), p.checkSandbox(plan))
	}
	if err != nil {
		return err
	}
	log := newLog(stderr, p.LogLevel, p.LogFormat)
	closes := func(c io.Closer) { err = errors.Join(err, c.Close()) }

	memory, err := p.memory(cell)
	if err != nil {
		return err
	}
	defer func() { closes(memory) }()
	siblings, err := listen(cell, 1, "--socket", p.Socket)
	if err != nil {
		return err
	}
	defer func() { closes(siblings) }()
	clients, err := listen(cell, 2, "--device-socket", p.DeviceSocket)
	if err != nil {
		return err
	}
	defer func() { closes(clients) }()
	if cell != nil {
		ctx = cell.Context(ctx)
	} else if err := p.announce(memory, stdout, log); err != nil {
		return err
	}
	if cell == nil && plan.Jailed() {
		return p.launch(ctx, plan, memory, siblings, clients)
	}
	notify, err := newNotifier(cell, 3, log)
	if err != nil {
		return err
	}
	if err := p.closeJail(plan, cell, stdout, log); err != nil {
		return err
	}
	device, err := proxy.New(p.options(siblings, memory, log))
	if err != nil {
		return err
	}
	defer func() { closes(device) }()
	notify.tell(ready)
	defer notify.tell(stopping)
	go notify.watch(ctx)
	return p.serveDevices(ctx, clients, device, log)
}

// memory opens the memory file, or makes one.
func (p *Proxy) memory(cell *jail.Cell) (*proxy.Memory, error) {
	switch {
	case cell != nil:
		return memoryInside(cell)
	case p.MemPath == "":
		return proxy.NewMemory(int64(p.MemSize))
	}
	return proxy.OpenMemory(p.MemPath, int64(p.MemSize))
}

// options translates the command line for the device.
func (p *Proxy) options(siblings *unixsock.Listener, memory *proxy.Memory, log *slog.Logger) proxy.Options {
	opt := proxy.Options{
		Listener: siblings,
		Memory:   memory,
		Profile:  p.Profile,
		DeviceID: uint16(p.DeviceID),
		Queues:   p.Queues,
		Log:      log,
	}
	if p.MemRule != nil {
		opt.Rule = *p.MemRule
	}
	return opt
}

// announce says what both QEMUs have to be told.
func (p *Proxy) announce(memory *proxy.Memory, stdout io.Writer, log *slog.Logger) error {
	device, sibling := proxy.DeviceVMArgs(absolute(p.DeviceSocket)), memory.SiblingArgs(absolute(p.Socket), "vfiofs")
	log.Info("waiting for a device VM", "socket", p.DeviceSocket, "qemu", device)
	log.Info("waiting for a sibling", "socket", p.Socket, "qemu", sibling)
	if !p.PrintQEMUArgs {
		return nil
	}
	_, err := fmt.Fprintf(stdout, "# device VM: it runs vfiofs --vfio 0000:00:07.0\nqemu-system-x86_64 %s\n\n# sibling: it mounts with mount -t virtiofs vfiofs /mnt\nqemu-system-x86_64 %s\n", device, sibling)
	return err
}

// absolute makes a path one that works from anywhere.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// serveDevices serves one device VM after the other until ctx ends.
func (p *Proxy) serveDevices(ctx context.Context, from *unixsock.Listener, device *proxy.Device, log *slog.Logger) error {
	server := vfiouser.NewServer(device, vfiouser.Options{Log: log})
	for {
		conn, err := from.Accept(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			log.Info("ending", "cause", context.Cause(ctx))
			return nil
		case err != nil && passing(err):
			log.Error("cannot accept a device VM; trying again", "socket", p.DeviceSocket, "err", err)
			pause(ctx, acceptPause)
			continue
		case err != nil:
			return fmt.Errorf("accept a device VM on %s: %w", p.DeviceSocket, err)
		}
		if err := server.Serve(ctx, conn); err != nil && ctx.Err() == nil {
			log.Warn("device VM dropped; waiting for the next", "err", err)
		}
	}
}

// listen binds one of the sockets, or takes descriptor n of those that the launcher has
// opened.
func listen(cell *jail.Cell, n int, option, path string) (*unixsock.Listener, error) {
	if cell != nil {
		return listenInside(cell, n)
	}
	l, err := unixsock.Listen(path, socketMode)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another path with %s", err, option)
	}
	return l, nil
}
