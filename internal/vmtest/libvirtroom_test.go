package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Paths in the room.
const (
	roomLab     = "/lab"       // the lab
	roomWork    = "/room"      // the test's directory
	roomSession = "/room/home" // of the ordinary user
)

// room is process 1 of the room in which libvirt runs: an own tree of Debian's
// libvirt and QEMU, under mounts and processes of its own, so that libvirt finds its
// files where it was built to look and leaves nothing behind on this machine.
//
//	tree (lower) ┐
//	tmpfs (upper)┴ overlay ─► /   /proc /sys /dev   /lab ◄─ the lab   /room ◄─ the test
//
// Its arguments are the tree, the lab, the test's directory and the user whose libvirtd
// it starts: root's serves qemu:///system, any other's qemu:///session. When it ends,
// the kernel ends everything in the room.
func room(args []string) int {
	if len(args) != 4 {
		fmt.Println("room: want four arguments, got", args)
		return 2
	}
	uid, err := strconv.Atoi(args[3])
	if err == nil {
		err = furnish(args[0], args[1], args[2])
	}
	if err == nil {
		err = libvirtd(uint32(uid))
	}
	fmt.Println("room:", err)
	return 1
}

// furnish makes the tree the root directory of this process and of nobody else, with
// the lab and the test's directory in it.
func furnish(tree, lab, work string) (err error) {
	try := func(what string, do func() error) {
		if err != nil {
			return // above all, no mount before the first: this machine would see it
		}
		if failed := do(); failed != nil {
			err = fmt.Errorf("%s: %w", what, failed)
		}
	}
	mount := func(source, target, fstype string, flags uintptr, data string) {
		try("mount "+source+" on "+target, func() error {
			return errors.Join(os.MkdirAll(target, 0o755), unix.Mount(source, target, fstype, flags, data))
		})
	}
	base, top, old := filepath.Join(work, "mnt"), filepath.Join(work, "mnt/top"), "/old"
	mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	mount("tmpfs", base, "tmpfs", 0, "mode=755")
	for _, dir := range []string{"/upper", "/index"} {
		try("make the overlay", func() error { return os.Mkdir(base+dir, 0o755) })
	}
	mount("overlay", top, "overlay", 0, "lowerdir="+tree+",upperdir="+base+"/upper,workdir="+base+"/index")
	mount("proc", top+"/proc", "proc", 0, "")
	mount("sysfs", top+"/sys", "sysfs", 0, "") // an own one has no cgroups for libvirt to write to
	mount("/dev", top+"/dev", "", unix.MS_BIND|unix.MS_REC, "")
	mount("tmpfs", top+"/run", "tmpfs", 0, "mode=755")
	mount(lab, top+roomLab, "", unix.MS_BIND, "")
	mount(work, top+roomWork, "", unix.MS_BIND, "")
	mount(work+"/log", top+"/var/log/libvirt", "", unix.MS_BIND, "")
	// Packages that were unpacked by an ordinary user have lost owner and mode.
	for _, name := range []string{"newuidmap", "newgidmap"} {
		try("make "+name+" root's", func() error {
			file := top + "/usr/bin/" + name
			return errors.Join(os.Chown(file, 0, 0), os.Chmod(file, 0o755|os.ModeSetuid))
		})
	}
	for name, text := range roomFiles {
		try("write "+name, func() error {
			return errors.Join(os.MkdirAll(top+filepath.Dir(name), 0o755), os.WriteFile(top+name, []byte(text), 0o644))
		})
	}
	try("make a place for the old root", func() error { return os.Mkdir(top+old, 0o700) })
	try("pivot_root", func() error { return unix.PivotRoot(top, top+old) })
	try("go to the new root", func() error { return os.Chdir("/") })
	try("unmount the old root", func() error { return unix.Unmount(old, unix.MNT_DETACH) })
	return err
}

// qemuConf lets root be QEMU's user, for it may read the lab wherever that is, and
// keeps libvirt from wanting what only a whole system has.
const qemuConf = `security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
namespaces = []
stdio_handler = "file"
`

const libvirtConf = "/etc/libvirt/room.conf"

// roomFiles is what an installation would have made, and libvirt's configuration.
var roomFiles = map[string]string{
	"/etc/passwd": "root:x:0:0::/nonexistent:/bin/sh\n" +
		"libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n" +
		"user:x:1000:1000::" + roomSession + ":/bin/sh\n",
	"/etc/group":             "root:x:0:\ntty:x:5:\nkvm:x:104:\nlibvirt-qemu:x:64055:\nuser:x:1000:\n",
	"/etc/subuid":            "user:100000:65536\n",
	"/etc/subgid":            "user:100000:65536\n",
	"/etc/libvirt/qemu.conf": qemuConf,
	libvirtConf:              "auth_unix_rw = \"none\"\nunix_sock_dir = \"" + roomWork + "\"\nlog_outputs = \"2:stderr\"\n",
}

// libvirtd runs libvirtd until it ends, and buries all whose parents have died: libvirt
// waits for the programs that it has sent into the background to disappear.
func libvirtd(uid uint32) error {
	attr := &os.ProcAttr{
		Env:   []string{"PATH=/usr/bin:/usr/sbin", "HOME=" + roomSession, "XDG_RUNTIME_DIR=" + roomSession + "/run"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	}
	if uid != 0 {
		attr.Sys = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	const program = "/usr/sbin/libvirtd"
	p, err := os.StartProcess(program, []string{program, "--config", libvirtConf}, attr)
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait: %w", err)
		}
		if pid == p.Pid {
			return fmt.Errorf("%s has ended, status %#x", program, status)
		}
	}
}
