package vmtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
	"vfiofs/internal/vmtest/plan"
)

// A libvirt is a libvirtd in a room of its own; see room.
type libvirt struct {
	lab *Lab
	dir string // the test's directory, roomWork in the room
	uid int    // of libvirtd
}

// domainXML is a guest as libvirt wants it told, with the ports of a Machine.
var domainXML = template.Must(template.New("domain").Parse(`<domain type='qemu'>
  <name>{{.Name}}</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{{.Kernel}}</kernel>
    <initrd>{{.Work}}/initrd</initrd>
    <cmdline>{{.Append}}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs' queue='1024'/>
{{- if .Program}}
      <binary path='{{.Work}}/{{.Program}}'{{.Binary}}
      <source dir='{{.Work}}/{{.Name}}/share'/>
{{- else}}
      <source socket='{{.Work}}/{{.Name}}/fs.sock'/>
{{- end}}
      <target dir='share'/>{{.IDMap}}
    </filesystem>
    <serial type='file'><source path='{{.Work}}/{{.Name}}/console'/></serial>
    <channel type='unix'><source mode='connect' path='{{.Work}}/{{.Name}}/ctl.sock'/><target type='virtio' name='` + plan.PortControl + `'/></channel>
    <channel type='file'><source path='{{.Work}}/{{.Name}}/out'/><target type='virtio' name='` + plan.PortOutput + `'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
`))

// A domain is one guest of TestLibvirt, and what is to be seen of it.
type domain struct {
	Name    string
	Program string // "vfiofs" or "wrapper"; none if libvirt finds vfiofs running
	Binary  string // rest of <binary>
	IDMap   string // <idmap>

	args    string // libvirt's arguments for vfiofs, after --fd; SHARE is the directory
	xattr   string // what the guest reads of the file's attribute
	owner   int    // of what the guest's root makes
	five    int    // the host's user for the guest's user 5
	destroy bool   // by virsh, instead of the guest powering off
}

// TestLibvirt lets Debian's libvirt start vfiofs and a guest that mounts the share:
// root's libvirt and an ordinary user's, and with each of libvirt's options for a
// virtio-fs daemon.
func TestLibvirt(t *testing.T) {
	lab := Find(t)
	if lab.Libvirt == "" {
		t.Fatal(&MissingError{"libvirt in " + lab.Dir, "run scripts/lab --libvirt"})
	}
	if os.Geteuid() != 0 {
		t.Fatal(&MissingError{"the right to mount", "run as root: libvirt gets a root directory of its own"})
	}
	const withXattr, noXattr = `user.vfiofs="attribute"`, "getfattr: /mnt/hello: Operation not supported"
	for _, mode := range []struct {
		name    string
		uid     int
		domains []domain
	}{
		{"system", 0, []domain{
			{Name: "plain", Program: "vfiofs", Binary: "/>", args: "--shared-dir SHARE", xattr: noXattr, five: 5},
			{
				Name: "options", Program: "vfiofs",
				Binary: " xattr='on'><cache mode='always'/><sandbox mode='chroot'/><thread_pool size='4'/><openfiles max='5000'/></binary>",
				args:   "--shared-dir SHARE --cache always --sandbox chroot --xattr --thread-pool-size=4 --rlimit-nofile=5000",
				xattr:  withXattr, five: 5, destroy: true,
			},
			{
				Name: "legacy", Program: "wrapper",
				Binary: " xattr='on'><cache mode='none'/><lock posix='off' flock='off'/></binary>",
				args:   "-o source=SHARE,cache=none,xattr,no_flock,no_posix_lock", xattr: withXattr, five: 5,
			},
			{Name: "external", xattr: withXattr, five: 5},
		}},
		{"session", 1000, []domain{
			{
				Name: "ids", Program: "vfiofs", Binary: " xattr='on'/>",
				args: "--shared-dir SHARE --xattr --uid-map=:0:1000:1: --uid-map=:1:100000:65536: " +
					"--gid-map=:0:1000:1: --gid-map=:1:100000:65536:",
				xattr: withXattr, owner: 1000, five: 100004,
			},
			{
				Name: "idmap", Program: "vfiofs", Binary: "/>",
				IDMap: "<idmap><uid start='0' target='100000' count='1000'/><gid start='0' target='100000' count='1000'/></idmap>",
				args:  "--shared-dir SHARE --uid-map=:0:100000:1000: --gid-map=:0:100000:1000:", xattr: noXattr, owner: 100000, five: 100005,
			},
		}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			v := startLibvirt(t, lab, mode.uid)
			for _, d := range mode.domains {
				t.Run(d.Name, func(t *testing.T) { v.run(t, d) })
			}
		})
	}
}

// fdNumber is how libvirt's command lines for vfiofs begin.
var fdNumber = regexp.MustCompile(`^\S+ --fd=\d+`)

// guestScript is the guest's part. What it prints is compared.
const guestScript = `busybox cat /mnt/hello
busybox getfattr -n user.vfiofs /mnt/hello 2>&1 | busybox grep -v '^#'
echo from the guest > /mnt/new && busybox cp /mnt/new /mnt/five && busybox chown 5:5 /mnt/five
busybox sync`

// startLibvirt makes the room's directory with all that its guests need, and starts the
// room.
func startLibvirt(t *testing.T, lab *Lab, uid int) *libvirt {
	t.Helper()
	// t.TempDir is too long for a socket's path.
	dir, err := os.MkdirTemp("", "lv-")
	testkit.Check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	testkit.Check(t, os.Chmod(dir, 0o755)) // a user namespace may be nobody's here
	v := &libvirt{lab, dir, uid}
	vm := VM{
		Shares: []Share{{Tag: "share", Mount: "/mnt"}},
		Files:  map[string]string{"/bin/busybox": lab.Busybox},
		Steps: []plan.Step{
			{Name: "share", Args: []string{"/bin/busybox", "sh", "-c", guestScript}},
			{Name: "look", Await: true},
		},
	}
	testkit.Check(t, vm.Pack(t.Context(), lab, dir))
	testkit.Check(t, Program{Package: "vfiofs/cmd/vfiofs"}.build(t.Context(), filepath.Join(dir, "vfiofs")))
	write(t, dir, map[string]string{
		// Without the feature "separate-options", libvirt speaks to a virtiofsd of old.
		"wrapper": "#!" + v.inRoom(t, lab.Busybox) + " sh\n" +
			`[ "$1" != --print-capabilities ] || exec echo '{"type": "fs", "features": []}'` + "\n" +
			"exec " + roomWork + "/vfiofs \"$@\"\n",
		"log/qemu/x": "", "home/run/x": "", // for the directories
		"home/.config/libvirt/qemu.conf": "stdio_handler = \"file\"\n",
	})
	v.give(t, dir)

	v.start(t)
	t.Logf("%s", v.virsh(t, "version"))
	return v
}

// start starts the room, for the time of the test, and returns when libvirtd listens.
func (v *libvirt) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	testkit.Check(t, err)
	log, err := os.Create(filepath.Join(v.dir, "libvirtd.log"))
	testkit.Check(t, err)
	defer log.Close()
	cmd := exec.Command(self, v.lab.Libvirt, v.lab.Dir, v.dir, strconv.Itoa(v.uid))
	cmd.Env = append(os.Environ(), "VMTEST_SERVER=room")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	testkit.Check(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		<-ended
		if t.Failed() {
			t.Log(tailFile("libvirtd", log.Name()))
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(time.Minute); ; {
		c, err := net.Dial("unix", filepath.Join(v.dir, "libvirt-sock"))
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatal("libvirtd has ended")
		case <-limit:
			t.Fatal("libvirtd does not listen: ", err)
		}
	}
}

// give makes everything below dir the user's.
func (v *libvirt) give(t *testing.T, dir string) {
	t.Helper()
	testkit.Check(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, v.uid, v.uid))
	}))
}

// inRoom is the name that a file of the lab has in the room.
func (v *libvirt) inRoom(t *testing.T, file string) string {
	t.Helper()
	name, err := filepath.Rel(v.lab.Dir, file)
	testkit.Check(t, err)
	return filepath.Join(roomLab, name)
}

// virsh runs the tree's virsh out here, not in the room: the socket of libvirtd is all that it needs.
func (v *libvirt) virsh(t *testing.T, args ...string) string {
	t.Helper()
	uri := "qemu+unix:///system?socket=" + filepath.Join(v.dir, "libvirt-sock")
	if v.uid != 0 {
		uri = strings.Replace(uri, "system", "session", 1)
	}
	tree := v.lab.Libvirt
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tree+"/usr/lib64/ld-linux-x86-64.so.2", append([]string{
		"--library-path", tree + "/usr/lib/x86_64-linux-gnu", tree + "/usr/bin/virsh", "--quiet", "-c", uri,
	}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// run starts a guest, sees that the share works and that libvirt is content, and ends it.
func (v *libvirt) run(t *testing.T, d domain) {
	dir := filepath.Join(v.dir, d.Name)
	write(t, dir, map[string]string{"share/hello": "from the host\n"})
	hello := filepath.Join(dir, "share", "hello")
	testkit.Check(t, unix.Setxattr(hello, "user.vfiofs", []byte("attribute"), 0))
	ctl, err := listen(filepath.Join(dir, "ctl.sock"))
	testkit.Check(t, err)
	defer ctl.Close()
	v.give(t, dir)
	if d.owner != 0 { // the guest's root is to be at home in the share
		testkit.Check(t, os.Chown(filepath.Join(dir, "share"), d.owner, d.owner))
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, place := range []string{"log/qemu", "home/.cache/libvirt/qemu/log"} {
			logs, _ := filepath.Glob(filepath.Join(v.dir, place, d.Name+"*"))
			for _, log := range logs {
				t.Log(tailFile(filepath.Base(log), log))
			}
		}
	})
	if d.Program == "" {
		v.serve(t, dir)
	}

	var xml bytes.Buffer
	testkit.Check(t, domainXML.Execute(&xml, struct {
		domain
		Kernel, Append, Work string
	}{d, v.inRoom(t, v.lab.Kernels[0].Image), kernelArgs, roomWork}))
	write(t, dir, map[string]string{"domain.xml": xml.String()})
	v.virsh(t, "create", filepath.Join(dir, "domain.xml"))
	m := &Machine{vm: VM{Name: d.Name}, dir: dir, scale: 1, exited: make(chan struct{}), changed: make(chan struct{})}
	m.ctl, err = ctl.Accept()
	testkit.Check(t, err)
	defer m.ctl.Close()
	go func() {
		m.listen()
		close(m.exited) // QEMU's end is the end of the connection
	}()
	_, err = m.Expect(bootLimit, plan.Await, "look")
	testkit.Check(t, err)

	out, err := m.Output("share")
	testkit.Check(t, err)
	if got, want := strings.TrimSpace(string(out)), "from the host\n"+d.xattr; got != want {
		t.Errorf("the guest says %q; want %q", got, want)
	}
	v.checkOwner(t, filepath.Join(dir, "share/new"), d.owner)
	v.checkOwner(t, filepath.Join(dir, "share/five"), d.five)
	servers := v.servers(t)
	if len(servers) == 0 {
		t.Fatal("libvirt runs no vfiofs")
	}
	want := "--fd=N " + strings.ReplaceAll(d.args, "SHARE", filepath.Join(roomWork, d.Name, "share"))
	if got := fdNumber.ReplaceAllString(servers[0].args, "--fd=N"); got != want && d.Program != "" {
		t.Errorf("libvirt's arguments are %q; want %q", got, want)
	}
	if d.destroy {
		v.virsh(t, "destroy", d.Name)
	} else {
		testkit.Check(t, m.Send(plan.Go, "look"))
		_, err = m.Expect(time.Minute, plan.Off)
		testkit.Check(t, err)
	}
	for _, s := range servers {
		s.awaitEnd(t)
	}
}

// serve starts vfiofs for one guest, outside the room.
func (v *libvirt) serve(t *testing.T, dir string) {
	t.Helper()
	s := Server{Name: "vfiofs", Command: func(o ServeOptions) []string {
		return []string{filepath.Join(v.dir, "vfiofs"), "--socket-path", o.Socket, "--shared-dir", o.Dir, "--xattr"}
	}}
	d, err := Serve(s, ServeOptions{Dir: filepath.Join(dir, "share"), Socket: filepath.Join(dir, "fs.sock")})
	testkit.Check(t, err)
	t.Cleanup(func() {
		testkit.Check(t, d.Stop())
		if t.Failed() {
			t.Log(tailFile("vfiofs", d.logFile))
		}
	})
}

// checkOwner checks that the guest made a file and whose it is.
func (v *libvirt) checkOwner(t *testing.T, file string, uid int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "from the guest\n" {
		t.Errorf("%s holds %q, %v; want what the guest wrote", filepath.Base(file), b, err)
		return
	}
	var st unix.Stat_t
	testkit.Check(t, unix.Stat(file, &st))
	if int(st.Uid) != uid || int(st.Gid) != uid {
		t.Errorf("%s belongs to %d:%d; want %d:%[4]d", filepath.Base(file), st.Uid, st.Gid, uid)
	}
}

// A server is a process of vfiofs.
type server struct {
	pid  int
	fd   int // of the process, see pidfd_open(2)
	args string
}

// servers finds all processes of the vfiofs that was built for this room, the first
// started first.
func (v *libvirt) servers(t *testing.T) (found []server) {
	t.Helper()
	program, err := os.Stat(filepath.Join(v.dir, "vfiofs"))
	testkit.Check(t, err)
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	testkit.Check(t, err)
	for _, exe := range exes {
		st, err := os.Stat(exe)
		if err != nil || !os.SameFile(st, program) {
			continue // a kernel thread, gone meanwhile, or something else
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
		testkit.Check(t, err)
		fd, err := unix.PidfdOpen(pid, 0)
		testkit.Check(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		args, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline"))
		testkit.Check(t, err)
		found = append(found, server{pid, fd, strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))})
	}
	slices.SortFunc(found, func(a, b server) int { return a.pid - b.pid })
	return found
}

// awaitEnd waits for the end of a process.
func (s server) awaitEnd(t *testing.T) {
	t.Helper()
	const limit = 30 * time.Second
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	for err == unix.EINTR {
		n, err = unix.Poll(fds, int(limit.Milliseconds()))
	}
	if n != 1 {
		t.Errorf("vfiofs (process %d) is still there %s after its guest has gone (%v)", s.pid, limit, err)
	}
}
