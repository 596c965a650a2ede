package vfiouser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"vfiofs/vfio"
)

// Options are what a Server can be told.
type Options struct {
	// Log gets what is worth knowing about clients; nil discards it.
	Log *slog.Logger
}

// ErrBusy says that another client is attached.
var ErrBusy = errors.New("another client is attached")

// A Server shows a Model to clients, one at a time.
type Server struct {
	model Model
	log   *slog.Logger
	busy  sync.Mutex // held while a client is served
}

// NewServer returns a Server of model.
func NewServer(model Model, opt Options) *Server {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{model: model, log: log}
}

// Serve serves one client until it leaves, and closes sock. It returns nil when the
// client left between messages, ctx's cause once ctx is done, a *PeerError if the
// client broke the protocol, and ErrBusy while another client is served.
func (s *Server) Serve(ctx context.Context, sock *net.UnixConn) error {
	c := newConn(sock)
	if !s.busy.TryLock() {
		return errors.Join(ErrBusy, c.close())
	}
	defer s.busy.Unlock()
	defer context.AfterFunc(ctx, c.expire)()
	ses := &session{conn: c, model: s.model, log: s.log}
	err := ses.run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, ses.end(), c.close())
}

// A session is the state of one client.
type session struct {
	conn  *conn
	model Model
	log   *slog.Logger

	bus       *Bus // nil before VERSION
	peerFiles int  // descriptors that the client takes in one message
	regions   [vfio.NumRegions]RegionInfo
	reply     reply

	refusals int // commands that were refused
}

// maxWarnings is how many refusals of one client are warned about.
const maxWarnings = 16

// run serves commands until there are no more.
func (s *session) run() error {
	var m message
	for {
		if err := s.conn.recv(&m); err != nil {
			return err
		}
		err := s.answer(&m)
		m.close()
		if err != nil {
			return err
		}
	}
}

// attach begins the life of a client that speaks our version.
func (s *session) attach() {
	s.bus = new(Bus)
	for i := range s.regions {
		s.regions[i] = s.model.Region(i)
	}
	for kind := range s.bus.irqs.kinds {
		s.bus.irqs.kinds[kind] = make([]vector, s.model.Vectors(vfio.IRQ(kind)))
	}
	s.model.Attach(s.bus)
}

// end gives back everything that the client gave, once the Model has let go.
func (s *session) end() error {
	if s.bus == nil {
		return nil
	}
	s.model.Detach()
	if err := errors.Join(s.bus.irqs.end(), s.bus.dma.end()); err != nil {
		return fmt.Errorf("release what the client gave: %w", err)
	}
	return nil
}
