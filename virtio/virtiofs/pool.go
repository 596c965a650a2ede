package virtiofs

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"

	"vfiofs/fuse"
)

// A job is one request on its way through the workers, and the loop it belongs to.
type job struct {
	req  *request
	loop *loop
}

// A pool is the threads on which operations may block, shared by all loops.
type pool struct {
	log  *slog.Logger
	jobs chan job
	wg   sync.WaitGroup
}

// newPool starts n workers.
func newPool(server *fuse.Server, n int, log *slog.Logger) (*pool, error) {
	p := &pool{log: log, jobs: make(chan job, MaxRequestQueues*maxHandedOver)}
	for range n {
		ready := make(chan error)
		p.wg.Add(1)
		go p.work(server, ready)
		if err := <-ready; err != nil {
			p.close()
			return nil, fmt.Errorf("start a worker thread: %w", err)
		}
	}
	return p, nil
}

// submit queues j. It does not block: all loops together never have more jobs than
// the channel holds.
func (p *pool) submit(j job) { p.jobs <- j }

// close ends the workers. No loop may submit any more.
func (p *pool) close() {
	close(p.jobs)
	p.wg.Wait()
}

// work is one worker: a locked thread, because requests may change its credentials.
func (p *pool) work(server *fuse.Server, ready chan<- error) {
	defer p.wg.Done()
	runtime.LockOSThread()
	debug.SetPanicOnFault(true)
	thread, err := server.NewThread()
	ready <- err
	if err != nil {
		return
	}
	defer thread.Close()
	for j := range p.jobs {
		p.serve(thread, j)
		j.loop.finish(j.req)
	}
}

// serve runs one request to its end. When guest memory has vanished there is nobody
// to answer; the loop will find the ring broken by itself.
func (p *pool) serve(thread *fuse.Thread, j job) {
	j.req.used = 0
	defer func() {
		if e := recover(); e != nil {
			p.log.Error("request was lost", "panic", e, "stack", string(debug.Stack()))
		}
	}()
	j.req.used, _ = thread.Serve(&j.req.Request, true)
}
