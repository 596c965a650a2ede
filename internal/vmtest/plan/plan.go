// Package plan is what a test and the guest it boots tell each other: the plan, a
// JSON file in the guest's archive, and the lines of the control port. It follows
// no specification; both ends are in this tree.
//
//	host                          port "ctl"                        guest
//	  ◄──────────────────────────── up SECONDS ────────────────────── init runs
//	  ◄──────────────────────────── ready NAME ────────────────────── background step is ready
//	  ◄──────────────────────────── await NAME ────────────────────── step waits for us
//	  ───────────────────────────── go NAME ────────────────────────►
//	  ───────────────────────────── kill NAME | start NAME ─────────► while a step waits for us
//	  ◄──────────────────────────── exit NAME STATUS SECONDS ──────── step has ended
//	  ◄──────────────────────────── hold ──────────────────────────── all done, what now?
//	  ───────────────────────────── poweroff | reboot ──────────────►
//	  ◄──────────────────────────── fail TEXT ─────────────────────── init could not go on
//	  ◄──────────────────────────── off ───────────────────────────── last word
package plan

// Path is where the guest's init finds its plan.
const Path = "/plan.json"

// Names of the virtio-serial ports of a test guest.
const (
	PortControl = "ctl" // lines, both ways
	PortOutput  = "out" // what the steps print, to the host; see Tag
	PortFiles   = "art" // one tar of Plan.Collect, to the host
)

// First words of the lines of the control port.
const (
	Up       = "up"       // seconds since the kernel started
	Ready    = "ready"    // step
	Await    = "await"    // step
	Go       = "go"       // step; from the host
	Kill     = "kill"     // background step; from the host, while a step awaits its go or hold
	Start    = "start"    // background step that has ended; from the host, likewise
	Exit     = "exit"     // step, exit status, seconds it took
	Hold     = "hold"     // the host decides how the guest ends
	PowerOff = "poweroff" // from the host
	Reboot   = "reboot"   // from the host
	Fail     = "fail"     // reason; the guest powers off
	Off      = "off"      // everything is written and unmounted
)

// Tag separates a step's name from a line that it printed, on the output port.
const Tag = "\t"

// A Plan is everything a guest does between its boot and its end.
type Plan struct {
	Modules []string // kernel modules in the archive, in the order to load them
	Mounts  []Mount  // made in this order, unmounted in the reverse
	Steps   []Step   // run in this order
	Collect []string // directories sent to the host when all steps have ended
	Hold    bool     // ask the host how to end, instead of powering off
}

// A Mount is one call of mount(2). The target is made if it is missing.
type Mount struct {
	Source, Target, Type, Options string
}

// A Step is one program that the guest runs. Its output goes to the host line by
// line; its failure does not keep the next one from running.
type Step struct {
	Name string   // one word
	Args []string // program and arguments; none for a step that only waits
	Env  []string // added to the environment

	Await      bool   // wait for the host's "go" first
	Console    bool   // talk to the console instead of the output port: for a shell
	Background bool   // do not wait for the end; SIGTERM after the last step
	Ready      string // file whose appearance makes a background step "ready"
	Says       string // text in its output that does the same
}
