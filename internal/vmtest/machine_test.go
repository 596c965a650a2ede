package vmtest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/vmtest/plan"
)

// fakeMachine is a Machine without QEMU; say is the guest's side of the control port.
func fakeMachine(t *testing.T) (m *Machine, say func(format string, args ...any)) {
	t.Helper()
	guest, host := net.Pipe()
	m = &Machine{
		vm: VM{Name: "fake"}, dir: t.TempDir(), scale: 1, ctl: host,
		exited: make(chan struct{}), changed: make(chan struct{}),
	}
	go m.listen()
	t.Cleanup(func() {
		guest.Close()
		m.Close()
	})
	return m, func(format string, args ...any) { fmt.Fprintf(guest, format+"\n", args...) }
}

func TestExpect(t *testing.T) {
	for _, test := range []struct {
		name    string
		say     []string
		exited  bool
		want    []string
		line    string
		wantErr string
	}{
		{name: "at once", say: []string{"ready x"}, want: []string{"ready", "x"}, line: "ready x"},
		{name: "after others", say: []string{"up 1", "ready x 2"}, want: []string{"ready", "x"}, line: "ready x 2"},
		{name: "whole words", say: []string{"ready xy", "ready x"}, want: []string{"ready x"}, line: "ready x"},
		{name: "failure", say: []string{"up 1", "fail mount: no such device"}, want: []string{"ready"}, wantErr: "no such device"},
		{name: "QEMU gone", say: []string{"up 1"}, exited: true, want: []string{"ready"}, wantErr: "QEMU has ended"},
		{name: "QEMU gone after the word", say: []string{"off"}, exited: true, want: []string{"off"}, line: "off"},
		{name: "silence", say: []string{"up 1"}, want: []string{"ready"}, wantErr: "nothing happens"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, say := fakeMachine(t)
			go func() {
				for _, line := range test.say {
					say("%s", line)
				}
			}()
			if test.exited {
				close(m.exited)
			}
			limit := time.Minute
			if test.wantErr == "nothing happens" {
				limit = time.Millisecond
			}
			line, err := m.Expect(limit, test.want...)
			if test.wantErr == "" {
				if line != test.line || err != nil {
					t.Errorf("Expect(%q) = %q, %v; want %q", test.want, line, err, test.line)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("Expect(%q) = %v; want an error with %q", test.want, err, test.wantErr)
			}
		})
	}
}

func TestExpectGoesOn(t *testing.T) {
	m, say := fakeMachine(t)
	go func() {
		say("exit a 0 1.5")
		say("exit a 3 2.25")
	}()
	for range 2 {
		if _, err := m.Expect(time.Minute, plan.Exit, "a"); err != nil {
			t.Fatal(err)
		}
	}
	status, took, ok := m.Status("a")
	if status != 3 || took != 2250*time.Millisecond || !ok {
		t.Errorf("Status(a) = %d, %s, %v; want 3, 2.25s, true", status, took, ok)
	}
	if _, _, ok := m.Status("b"); ok {
		t.Error("Status(b): ok = true; want false")
	}
}

func TestErrorShowsConsole(t *testing.T) {
	m, _ := fakeMachine(t)
	write(t, m.dir, map[string]string{
		"console":  strings.Repeat("early\r\n", 40) + "Kernel panic\r\n",
		"qemu.log": "qemu: warning\n",
		"out":      "",
	})
	got := m.errorf("expect %q", "up").Error()
	for _, want := range []string{"fake: expect \"up\"", "--- console ---", "Kernel panic", "--- QEMU ---", "qemu: warning"} {
		if !strings.Contains(got, want) {
			t.Errorf("error = %q; want it to contain %q", got, want)
		}
	}
	if n := strings.Count(got, "early"); n != 29 {
		t.Errorf("lines of the console before the last = %d; want 29", n)
	}
	if strings.Contains(got, "output of the steps") {
		t.Errorf("error = %q; want nothing about empty output", got)
	}
}

func TestOutput(t *testing.T) {
	m, _ := fakeMachine(t)
	write(t, m.dir, map[string]string{"out": "a\tone\nb\tother\na\t\ttwo\nab\tno\n"})
	got, err := m.Output("a")
	if want := "one\n\ttwo\n"; string(got) != want || err != nil {
		t.Errorf("Output(a) = %q, %v; want %q", got, err, want)
	}
}

func TestBootErrors(t *testing.T) {
	dir := t.TempDir()
	lab := &Lab{QEMU: filepath.Join(dir, "qemu"), Kernels: []Kernel{{Series: "6.12", Modules: dir}}}
	write(t, dir, map[string]string{"qemu": "#!/bin/sh\necho no such machine >&2; exit 1\n", "modules.builtin": ""})
	for _, test := range []struct {
		name string
		vm   VM
		want string
	}{
		{"QEMU refuses", VM{}, "no such machine"},
		{"no such package", VM{Programs: []Program{{Name: "x", Package: "vfiofs/nosuch"}}}, "build vfiofs/nosuch"},
		{"no such module", VM{Modules: []string{"nosuch"}}, "no module nosuch"},
		{"no such file", VM{Files: map[string]string{"/x": "/nosuch"}}, "/nosuch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := boot(t.Context(), lab, test.vm, "tcg")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("boot() = %v, %v; want an error with %q", m, err, test.want)
			}
		})
	}
}

// TestQEMUArgs shows the command line that everything depends on.
func TestQEMUArgs(t *testing.T) {
	vm := VM{
		Kernel: Kernel{Image: "/k/vmlinux"}, CPUs: 4, MemMiB: 256, Append: "more",
		Shares: []Share{{Socket: "/s", Tag: "home", Queues: 4}},
		Disks:  []string{"/img"},
		Args:   []string{"-device", "extra"}, Archive: "/d/initrd",
	}
	want := strings.Fields(`
		-nodefaults -no-user-config -nic none -display none
		-machine q35,memory-backend=mem -m 256M
		-object memory-backend-memfd,id=mem,share=on,size=256M
		-accel tcg -cpu max -smp 4
		-kernel /k/vmlinux -initrd /d/initrd -append APPEND
		-chardev file,id=console,path=/d/console -serial chardev:console
		-chardev socket,id=qmp,path=/d/qmp.sock -mon chardev=qmp,mode=control
		-device virtio-serial-pci
		-chardev socket,path=/d/ctl.sock,id=ctl -device virtserialport,chardev=ctl,name=ctl
		-chardev file,path=/d/out,id=out -device virtserialport,chardev=out,name=out
		-chardev file,path=/d/art.tar,id=art -device virtserialport,chardev=art,name=art
		-chardev socket,id=fs0,path=/s
		-device vhost-user-fs-pci,chardev=fs0,tag=home,queue-size=1024,num-request-queues=4
		-blockdev raw,node-name=disk0,file.driver=file,file.filename=/img -device virtio-blk-pci,drive=disk0
		-no-reboot -device extra`)
	vm.fill(&Lab{Kernels: []Kernel{{}}})
	got := vm.qemuArgs("tcg", "/d")
	for i := range got {
		if i > 0 && got[i-1] == "-append" {
			if !strings.HasPrefix(got[i], "console=ttyS0 ") || !strings.HasSuffix(got[i], " more") {
				t.Errorf("kernel command line = %q; want console=ttyS0 ... more", got[i])
			}
			got[i] = "APPEND"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("qemuArgs() (-want +got):\n%s", diff)
	}
}

func TestQMP(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer server.Close()
		enc, dec := json.NewEncoder(server), json.NewDecoder(server)
		_ = enc.Encode(map[string]any{"QMP": map[string]any{"version": 1}})
		for {
			var cmd struct{ Execute string }
			if dec.Decode(&cmd) != nil {
				return
			}
			switch cmd.Execute {
			case "bad":
				_ = enc.Encode(map[string]any{"error": map[string]string{"class": "GenericError", "desc": "cannot do that"}})
			case "quit":
				return
			default:
				_ = enc.Encode(map[string]any{"event": "STOP"})
				_ = enc.Encode(map[string]any{"return": map[string]string{"ran": cmd.Execute}})
			}
		}
	}()
	q, err := newQMP(client)
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.execute("stop", time.Second)
	if want := `{"ran":"stop"}`; string(got) != want || err != nil {
		t.Errorf("execute(stop) = %s, %v; want %s", got, err, want)
	}
	if _, err := q.execute("bad", time.Second); err == nil || !strings.Contains(err.Error(), "cannot do that") {
		t.Errorf("execute(bad) = %v; want QEMU's reason", err)
	}
	if _, err := q.execute("quit", time.Second); err == nil {
		t.Error("execute(quit) = nil; want an error, for the connection is gone")
	}
}

// TestMain lets the test binary play a server (see TestServe), or furnish a room.
func TestMain(m *testing.M) {
	switch os.Getenv("VMTEST_SERVER") {
	case "":
		os.Exit(m.Run())
	case "room":
		os.Exit(room(os.Args[1:]))
	case "refuse":
		fmt.Println("cannot open the directory")
		os.Exit(2)
	}
	socket := os.Args[1]
	if socket == "proxy" {
		socket = os.Args[3]
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	defer l.Close()
	fmt.Println(os.Getenv("VMTEST_SAYS"))
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func TestServe(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	s := Server{Name: "fake", Command: func(o ServeOptions) []string { return []string{self, o.Socket} }}
	t.Run("listens", func(t *testing.T) {
		t.Setenv("VMTEST_SERVER", "listen")
		d, err := Serve(s, ServeOptions{Socket: socket})
		if err != nil {
			t.Fatal(err)
		}
		if !d.Running() {
			t.Error("Running() = false; want true")
		}
		for range 2 {
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		}
		if d.Running() {
			t.Error("Running() = true after Stop; want false")
		}
	})
	t.Run("refuses", func(t *testing.T) {
		t.Setenv("VMTEST_SERVER", "refuse")
		if _, err := Serve(s, ServeOptions{Socket: socket}); err == nil || !strings.Contains(err.Error(), "cannot open the directory") {
			t.Errorf("Serve() = %v; want what the server printed", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		none := Server{Name: "none", Command: func(ServeOptions) []string { return []string{"/nosuch"} }}
		if _, err := Serve(none, ServeOptions{Socket: socket}); err == nil {
			t.Error("Serve() = nil; want an error")
		}
	})
}

func TestServerCommands(t *testing.T) {
	o := ServeOptions{Dir: "/srv", Socket: "/s", Tag: "home"}
	for _, s := range []Server{Vfiofs("/bin/vfiofs"), Virtiofsd(&Lab{Virtiofsd: "/bin/virtiofsd"})} {
		got := strings.Join(s.Command(o), " ")
		for _, want := range []string{"/bin/" + s.Name + " ", " --shared-dir /srv", " --tag home", " /s "} {
			if !strings.Contains(got, want) {
				t.Errorf("command of %s = %q; want it to contain %q", s.Name, got, want)
			}
		}
	}
}
