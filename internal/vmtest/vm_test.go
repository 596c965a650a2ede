package vmtest_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
	"vfiofs/internal/vmtest"
	"vfiofs/internal/vmtest/guesttest"
	"vfiofs/internal/vmtest/plan"
)

// suite is the program that carries the guest's side of every test here.
var suite = vmtest.Program{Name: "suite", Package: "vfiofs/internal/vmtest/guesttest", Test: true}

// server returns the server to test: vfiofs, built from this tree, or with
// VFIOFS_SERVER=virtiofsd the lab's virtiofsd, to tell our faults from the guest's.
func server(t *testing.T, lab *vmtest.Lab) vmtest.Server {
	t.Helper()
	if os.Getenv("VFIOFS_SERVER") == "virtiofsd" {
		return vmtest.Virtiofsd(lab)
	}
	return vmtest.Vfiofs(build(t))
}

// build builds vfiofs from this tree.
func build(t testing.TB) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "vfiofs")
	cmd := exec.Command("go", "build", "-o", program, "vfiofs/cmd/vfiofs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build vfiofs: %v\n%s", err, msg)
	}
	return program
}

// serve starts a server on an empty directory, for the time of the test.
func serve(t *testing.T, s vmtest.Server, queues int) *vmtest.Daemon {
	t.Helper()
	// t.TempDir is too long for a socket's path.
	sockets, err := os.MkdirTemp("", "fs-")
	if err != nil {
		t.Fatal(err)
	}
	d, err := vmtest.Serve(s, vmtest.ServeOptions{
		Dir: t.TempDir(), Socket: filepath.Join(sockets, "s"), Tag: "share", Queues: queues,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	stopAtEnd(t, d)
	return d
}

// stopAtEnd stops a server at the end of the test. Its log is shown if the test fails,
// and it must stop in good order.
func stopAtEnd(t testing.TB, d *vmtest.Daemon) {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if log, err := d.Log(); err == nil && t.Failed() {
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			t.Logf("last lines of %s:\n%s", d.Options.Socket, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
}

func share(d *vmtest.Daemon) []vmtest.Share {
	return []vmtest.Share{{Socket: d.Options.Socket, Tag: d.Options.Tag, Queues: d.Options.Queues, Mount: "/mnt"}}
}

// poweredOff waits for the guest's end and checks that QEMU followed it at once: the
// server must have answered the front-end's last messages.
func poweredOff(t *testing.T, m *vmtest.Machine, limit time.Duration) {
	t.Helper()
	testkit.Check(t, m.Wait(limit))
	if got := m.Linger(); got > 2*time.Second {
		t.Errorf("QEMU exited %s after the guest powered off; want at most 2s", got)
	}
}

// TestBench boots a guest without any share, and tries what tests may ask of it:
// modules, files, background steps, waiting for each other, a tar of results.
func TestBench(t *testing.T) {
	lab := vmtest.Find(t)
	greeting := filepath.Join(t.TempDir(), "greeting")
	testkit.Check(t, os.WriteFile(greeting, []byte("hello"), 0o644))
	sh := func(name, line string) plan.Step {
		return plan.Step{Name: name, Args: []string{"/bin/busybox", "sh", "-c", line}}
	}
	daemon := sh("daemon", "trap 'echo ended > /data/end; exit 3' TERM; echo started > /data/ready; while :; do busybox sleep 0.01; done")
	daemon.Background, daemon.Ready = true, "/data/ready"
	waits := sh("waits", "echo went on")
	waits.Await = true
	m := vmtest.Start(t, lab, vmtest.VM{
		Files:   map[string]string{"/bin/busybox": lab.Busybox, "/data/greeting": greeting},
		Modules: []string{"virtiofs", "irqbypass", "vfio"},
		Steps:   []plan.Step{daemon, waits, sh("fails", "busybox grep ^vfio /proc/modules; exit 7")},
		Collect: []string{"/data"},
	})
	_, err := m.Expect(time.Minute, plan.Ready, "daemon")
	testkit.Check(t, err)
	_, err = m.Expect(time.Minute, plan.Await, "waits")
	testkit.Check(t, err)
	testkit.Check(t, m.Send(plan.Go, "waits"))
	poweredOff(t, m, time.Minute)

	for step, want := range map[string]int{"daemon": 3, "waits": 0, "fails": 7} {
		if got, _, ok := m.Status(step); got != want || !ok {
			t.Errorf("Status(%s) = %d, %v; want %d", step, got, ok, want)
		}
	}
	for step, want := range map[string]string{"waits": "went on\n", "fails": "vfio "} {
		if got, err := m.Output(step); !strings.HasPrefix(string(got), want) || err != nil {
			t.Errorf("Output(%s) = %q, %v; want %q", step, got, err, want)
		}
	}
	files, err := m.Files()
	testkit.Check(t, err)
	defer files.Close()
	got := map[string]string{}
	for tr := tar.NewReader(files); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		testkit.Check(t, err)
		content, err := io.ReadAll(tr)
		testkit.Check(t, err)
		got[h.Name] = string(content)
	}
	want := map[string]string{"data/greeting": "hello", "data/ready": "started\n", "data/end": "ended\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("collected files (-want +got):\n%s", diff)
	}
}

// TestBenchFailure boots a guest whose plan cannot be carried out: the test must
// learn why, and QEMU must end.
func TestBenchFailure(t *testing.T) {
	m := vmtest.Start(t, vmtest.Find(t), vmtest.VM{Steps: []plan.Step{{Name: "x", Args: []string{"/bin/nosuch"}}}})
	if err := m.Wait(time.Minute); err == nil || !strings.Contains(err.Error(), "start step x: fork/exec /bin/nosuch") {
		t.Errorf("Wait() = %v; want the reason of the failure", err)
	}
}

// TestKernels runs the guest suite on every kernel of the lab.
func TestKernels(t *testing.T) {
	lab := vmtest.Find(t)
	s := server(t, lab)
	for _, series := range []string{"6.12", "7"} {
		t.Run("Linux"+series, func(t *testing.T) {
			kernel, err := lab.Kernel(series)
			testkit.Check(t, err)
			d := serve(t, s, 1)
			want := writeHostFile(t, d.Options.Dir, 256<<20)
			steps := []plan.Step{
				vmtest.Test("posix", "suite", "^TestPosix$", "-dir=/mnt", "-lacks="+strings.Join(s.Lacks, ",")),
				vmtest.Test("write", "suite", "^TestWrite$", "-dir=/mnt"),
				vmtest.Test("read", "suite", "^TestRead$", "-dir=/mnt", "-sum="+want),
				vmtest.Test("small", "suite", "^TestSmallFiles$", "-dir=/mnt"),
			}
			if series != "6.12" {
				steps = steps[:3] // the small files cost most of the time and say little more
			}
			m := vmtest.Start(t, lab, vmtest.VM{
				Name: "Linux " + kernel.Release, Kernel: kernel, MemMiB: 1024,
				Shares: share(d), Programs: []vmtest.Program{suite}, Steps: steps,
			})
			poweredOff(t, m, time.Minute)
			for _, step := range steps {
				m.Report(t, step.Name)
			}
			t.Run("HostSeesGuestFile", func(t *testing.T) { testkit.Check(t, guesttest.CheckWrite(d.Options.Dir, 256<<20)) })
			if series == "6.12" {
				t.Run("HostSeesSmallFiles", func(t *testing.T) { testkit.Check(t, guesttest.CheckSmallFiles(d.Options.Dir, 10_000)) })
			}
		})
	}
}

// writeHostFile makes the file that TestRead reads and returns its SHA-256.
func writeHostFile(t *testing.T, dir string, size int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, guesttest.FarFile))
	testkit.Check(t, err)
	defer f.Close()
	sum, err := guesttest.FarBytes(f, size)
	testkit.Check(t, err)
	return sum
}

// TestGuestReboots reboots a guest five times on one connection to one server.
func TestGuestReboots(t *testing.T) {
	lab := vmtest.Find(t)
	s := server(t, lab)
	d := serve(t, s, 1)
	boots := filepath.Join(d.Options.Dir, "boots")
	testkit.Check(t, os.WriteFile(boots, nil, 0o644))
	m := vmtest.Start(t, lab, vmtest.VM{
		Shares: share(d), Programs: []vmtest.Program{suite}, Reboots: true, Hold: true,
		Steps: []plan.Step{vmtest.Test("boot", "suite", "^TestBoot$", "-dir=/mnt")},
	})
	const reboots = 5
	for i := range reboots + 1 {
		line, err := m.Expect(time.Minute, plan.Exit, "boot")
		testkit.Check(t, err)
		if fields := strings.Fields(line); fields[2] != "0" {
			out, _ := m.Output("boot")
			t.Fatalf("boot %d: exit status %s; want 0\n%s", i, fields[2], out)
		}
		_, err = m.Expect(30*time.Second, plan.Hold)
		testkit.Check(t, err)
		end := plan.Reboot
		switch {
		case i == reboots:
			end = plan.PowerOff
		case i%2 == 1: // as if somebody pressed the button: no unmount, no DESTROY
			testkit.Check(t, m.QMP("system_reset"))
			_, err = m.Expect(time.Minute, plan.Up)
			testkit.Check(t, err)
			continue
		}
		testkit.Check(t, m.Send(end))
		if end == plan.Reboot {
			_, err = m.Expect(time.Minute, plan.Up)
			testkit.Check(t, err)
		}
	}
	poweredOff(t, m, time.Minute)
	if s.Relistens && !d.Running() {
		t.Error("the server has ended; want it to outlive the guest")
	}
	got, err := os.ReadFile(boots)
	testkit.Check(t, err)
	var want strings.Builder
	for i := range reboots + 1 {
		fmt.Fprintf(&want, "boot-%d\n", i)
	}
	if string(got) != want.String() {
		t.Errorf("boots on the host = %q; want %q", got, want.String())
	}
}

// TestStopContUnderLoad stops and continues the machine while a guest writes and
// reads. Nothing may be lost, torn or doubled.
func TestStopContUnderLoad(t *testing.T) {
	lab := vmtest.Find(t)
	d := serve(t, server(t, lab), 1)
	const size, cycles = 32 << 20, 8
	m := vmtest.Start(t, lab, vmtest.VM{
		Shares: share(d), Programs: []vmtest.Program{suite},
		Steps: []plan.Step{vmtest.Test("load", "suite", "^TestWriteUnderLoad$", "-dir=/mnt", "-size="+strconv.Itoa(size))},
	})
	for i := range cycles {
		awaitSize(t, m, filepath.Join(d.Options.Dir, guesttest.LoadFile(0)), int64(i+1)*size/(cycles+1))
		began := time.Now()
		testkit.Check(t, m.QMP("stop"))
		stopped := time.Now()
		testkit.Check(t, m.QMP("cont"))
		t.Logf("stop %d: took %s, cont %s", i+1, stopped.Sub(began), time.Since(stopped))
	}
	poweredOff(t, m, time.Minute)
	m.Report(t, "load")

	for i := range guesttest.LoadFiles {
		testkit.Check(t, guesttest.CheckRecords(filepath.Join(d.Options.Dir, guesttest.LoadFile(i)), size))
	}
}

// awaitSize waits until a file of the step "load" has at least the given size.
func awaitSize(t *testing.T, m *vmtest.Machine, path string, size int64) {
	t.Helper()
	limit := time.After(time.Duration(m.Scale() * float64(time.Minute)))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _, ended := m.Status("load")
		if st, err := os.Stat(path); err == nil && st.Size() >= size {
			return
		}
		if ended {
			m.Report(t, "load")
			t.Fatalf("the guest ended before %s had %d bytes", path, size)
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s does not grow to %d bytes", path, size)
		}
	}
}

// TestTwoGuests serves two guests, one after the other, from one process.
func TestTwoGuests(t *testing.T) {
	lab := vmtest.Find(t)
	s := server(t, lab)
	if !s.Relistens {
		t.Skipf("%s ends with its first guest", s.Name)
	}
	d := serve(t, s, 1)
	testkit.Check(t, os.WriteFile(filepath.Join(d.Options.Dir, "boots"), nil, 0o644))
	for _, name := range []string{"First", "Second"} {
		t.Run(name, func(t *testing.T) {
			m := vmtest.Start(t, lab, vmtest.VM{
				Name: name, Shares: share(d), Programs: []vmtest.Program{suite},
				Steps: []plan.Step{vmtest.Test("boot", "suite", "^TestBoot$", "-dir=/mnt")},
			})
			poweredOff(t, m, time.Minute)
			m.Report(t, "boot")
		})
	}
	if !d.Running() {
		t.Error("the server has ended; want it to listen for the next guest")
	}
	got, err := os.ReadFile(filepath.Join(d.Options.Dir, "boots"))
	testkit.Check(t, err)
	if want := "boot-0\nboot-1\n"; string(got) != want {
		t.Errorf("boots on the host = %q; want %q", got, want)
	}
}

// TestFourQueues boots a guest with four CPUs and four request queues, and counts in
// the server's log that requests came through each.
func TestFourQueues(t *testing.T) {
	lab := vmtest.Find(t)
	s := server(t, lab)
	if !s.MultiQueue {
		t.Skipf("%s has one request queue", s.Name)
	}
	d := serve(t, s, 4)
	m := vmtest.Start(t, lab, vmtest.VM{
		CPUs: 4, Shares: share(d), Programs: []vmtest.Program{suite},
		Steps: []plan.Step{vmtest.Test("cpus", "suite", "^TestEveryCPU$", "-dir=/mnt")},
	})
	poweredOff(t, m, time.Minute)
	m.Report(t, "cpus")

	log, err := d.Log()
	testkit.Check(t, err)
	requests := map[int]int{}
	for line := range bytes.Lines(log) {
		var e struct {
			Msg            string
			Ring, Requests int
		}
		if json.Unmarshal(line, &e) == nil && e.Msg == "ring stopped" {
			requests[e.Ring] += e.Requests
		}
	}
	// Ring 0 is hiprio (virtio 1.3, 5.11.2); each CPU read 50 times.
	for ring := 1; ring <= 4; ring++ {
		if requests[ring] < 50 {
			t.Errorf("requests through ring %d = %d; want at least 50 (all rings: %v)", ring, requests[ring], requests)
		}
	}
}
