package kafka

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

var (
	errDraining = errors.New("server is stopping")
	errHangup   = errors.New("connection is closed after this answer")
)

// conn is one client connection. The package comment says who runs what.
type conn struct {
	s        *Server
	nc       net.Conn
	listener boundListener

	frames  chan *request // reader → handler
	replies chan *reply   // handler → writer, in request order

	ctx     context.Context    // ends when the peer is gone or the server stops for good
	cancel  context.CancelFunc // any goroutine
	pending atomic.Int64       // frames read and not yet answered
	unsent  atomic.Int64       // bytes of answers in the queue; produce answers, which are small, not counted
	room    chan struct{}      // a token when unsent fell
	trusted atomic.Bool        // authenticated, or no authentication is asked for

	unmetered atomic.Uint64 // version of the quotas of which none is for the client, see metered
	unhandled atomic.Int64  // frames read whose handling has not ended
	handled   chan struct{} // a token when unhandled fell

	// Of the handler goroutine, and while unhandled is 0 the reader's in awaitTurn:
	fetched    int // bytes of the last fetch answer: the next one is likely to take as much
	who        who
	clientID   string // of the last request; requests of one client share the string
	software   string // name and version from ApiVersions
	sasl       saslState
	unverified unverified // the handler's
	limits     clientLimits
	mutedUntil time.Duration // since quotas.start

	unauthorized bool // something of the request is refused for want of a rule

	sentAway map[log.PartitionID]time.Time // partitions whose replicas the client was sent to, and when (KIP-392)
}

func newConn(s *Server, nc net.Conn, l boundListener) *conn {
	c := &conn{
		s: s, nc: nc, listener: l,
		frames:  make(chan *request, 4),
		replies: make(chan *reply, s.cfg.MaxPipelined),
		room:    make(chan struct{}, 1),
		handled: make(chan struct{}, 1),
	}
	c.trusted.Store(s.cfg.Auth == nil)
	c.who = anonymous(nc.RemoteAddr().String())
	return c
}

// stopReading makes the reader end; what was read is still answered. Server.draining is
// closed before.
func (c *conn) stopReading() { c.nc.SetReadDeadline(time.Unix(1, 0)) }

func (c *conn) close() { c.nc.Close() }

// serve returns when the connection is closed and its goroutines have ended.
func (c *conn) serve(ctx context.Context) {
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	defer c.nc.Close()
	if t, ok := c.nc.(*tls.Conn); ok {
		hctx, done := context.WithTimeout(c.ctx, c.s.cfg.ProgressTimeout)
		err := t.HandshakeContext(hctx)
		done()
		if err != nil {
			c.s.log.Info("kafka: tls handshake", "peer", c.nc.RemoteAddr(), "err", err)
			return
		}
		c.who.certified(t.ConnectionState())
	}

	var wg sync.WaitGroup
	wg.Go(c.read)
	wg.Go(c.write)
	for r := range c.frames {
		err := c.handle(r)
		c.handledOne()
		if err != nil {
			c.logEnd(err)
			break
		}
	}
	close(c.replies) // the writer sends what is pending, then ends the reader
	wg.Wait()
	for r := range c.frames { // read, but not handled after an error
		r.free()
	}
}

// logEnd says why the connection is closed by us.
func (c *conn) logEnd(err error) {
	switch {
	case errors.Is(err, errHangup), errors.Is(err, errDraining), errors.Is(err, net.ErrClosed), c.ctx.Err() != nil:
		return
	}
	c.s.n.requestErrors.Add(1)
	args := []any{"peer", c.nc.RemoteAddr(), "client", c.clientID, "software", c.software, "err", err}
	c.s.log.Warn("kafka: connection closed", args...)
}

// read frames until the peer is gone or the server drains.
func (c *conn) read() {
	defer close(c.frames)
	br := bufio.NewReaderSize(c.nc, 8<<10)
	for {
		r, err := c.next(br)
		if err != nil {
			c.endRead(err)
			return
		}
		c.pending.Add(1)
		c.unhandled.Add(1)
		c.s.n.requests.Add(1)
		c.s.n.requestBytes.Add(int64(4 + len(r.frame.b)))
		select {
		case c.frames <- r:
		case <-c.ctx.Done():
			r.free()
			return
		}
	}
}

// next waits for a frame. A connection is idle only when nothing is being answered: a
// member may wait in JoinGroup longer than any idle timeout.
func (c *conn) next(br *bufio.Reader) (*request, error) {
	for {
		if !c.readDeadline(c.s.cfg.IdleTimeout) {
			return nil, errDraining
		}
		head, err := br.Peek(4)
		if err != nil {
			var t net.Error
			if errors.As(err, &t) && t.Timeout() && c.pending.Load() > 0 {
				continue
			}
			return nil, err
		}
		size := int64(binary.BigEndian.Uint32(head))
		if size < 8 && c.trusted.Load() || size > int64(c.s.cfg.MaxRequestBytes) {
			return nil, fmt.Errorf("%w %d: must be 8 to %d bytes", errFrameSize, size, c.s.cfg.MaxRequestBytes)
		}
		br.Discard(4) // peeked above: cannot fail

		// The time that it takes to be heard again is not the peer's.
		if c.awaitTurn() && !c.readDeadline(c.s.cfg.ProgressTimeout) {
			return nil, errDraining
		}
		return c.readRequest(c.ctx, br, int(size))
	}
}

// endRead: requests already read are still handled, but whoever waits for long stops when
// the peer is gone.
func (c *conn) endRead(err error) {
	select {
	case <-c.s.draining:
		return
	default:
	}
	c.cancel()
	if errors.Is(err, errFrameSize) {
		c.s.n.requestErrors.Add(1)
		c.s.log.Warn("kafka: connection closed", "peer", c.nc.RemoteAddr(), "err", err)
	} else if !errors.Is(err, io.EOF) {
		c.s.log.Debug("kafka: connection ended", "peer", c.nc.RemoteAddr(), "err", err)
	}
}

// handle answers one request, or begins to. An error closes the connection once what was
// asked before is answered.
func (c *conn) handle(r *request) error {
	c.awaitRoom()
	c.awaitUnmuted()
	if c.sasl.rawTokens {
		return c.handleToken(r)
	}
	if err := r.parseHeader(); err != nil {
		r.free()
		return err
	}
	a := c.s.apis[r.key]
	if a == nil {
		defer r.free()
		return fmt.Errorf("request key %d is not served", r.key)
	}
	if !a.serves(r.version) {
		return c.refuseVersion(r, a)
	}
	if !c.trusted.Load() && !a.open {
		defer r.free()
		return fmt.Errorf("request key %d before authentication", r.key)
	}
	id, err := r.parseClientID(r.version >= a.flexible)
	if err != nil {
		r.free()
		return err
	}
	if string(id) != c.clientID { // the comparison does not allocate
		c.clientID = string(id)
	}
	rep := newReply(r.corr)
	if a.raw != nil {
		return a.raw(c.s, c.ctx, c, r, rep)
	}
	return c.handleStruct(r, a, rep)
}

// handleStruct decodes with kmsg, answers, and puts the answer in the queue.
func (c *conn) handleStruct(r *request, a *api, rep *reply) error {
	req := a.request()
	req.SetVersion(r.version)
	var err error
	if r.version >= a.flexible {
		err = a.shape.check(r.body, r.version)
	}
	if err == nil {
		err = req.ReadFrom(r.body)
	}
	if err != nil {
		r.free()
		return fmt.Errorf("request key %d version %d: %w", a.key, req.GetVersion(), err)
	}
	if a.waits {
		r.charge.release() // whoever makes it wait bounds what it keeps
	}
	defer r.abandon()
	resp, err := c.answer(a, req)
	if err != nil && !errors.Is(err, errHangup) {
		return err
	}
	var out *buffer
	if resp != nil {
		resp.SetVersion(req.GetVersion())
		out = encodeResponse(resp, r.corr)
	}
	rep.size = out.size()
	rep.complete(out)
	c.enqueue(rep)
	return err
}

// answer has the handler answer what the guard lets through.
func (c *conn) answer(a *api, req kmsg.Request) (resp kmsg.Response, err error) {
	if a.guard == nil || !c.s.guarded(c) {
		return a.handle(c.s, c.ctx, c, req)
	}
	c.unauthorized = false
	resp, after := a.guard(c.s, c, req)
	if resp != nil {
		c.unauthorized = true
	} else if resp, err = a.handle(c.s, c.ctx, c, req); after != nil && resp != nil {
		after(resp)
	}
	if c.unauthorized {
		c.s.n.unauthorized.Add(1)
	}
	return resp, err
}

// refuseVersion: only ApiVersions and Produce have an answer to a version not served, see
// their files. Anything else was ruled out by ApiVersions, and Kafka hangs up too.
func (c *conn) refuseVersion(r *request, a *api) error {
	if r.key != keyApiVersions {
		defer r.free()
		return fmt.Errorf("request key %d version %d is not served: versions are %d to %d", r.key, r.version, a.min, a.max)
	}
	rep := newReply(r.corr)
	rep.complete(encodeResponse(c.s.unknownApiVersions(), r.corr))
	r.free()
	c.enqueue(rep)
	return nil
}

const maxUnsent = 4 << 20

// awaitRoom keeps a peer that asks faster than it reads from filling memory with answers:
// at most maxUnsent and one more.
func (c *conn) awaitRoom() {
	for c.unsent.Load() > maxUnsent {
		select {
		case <-c.room:
		case <-c.ctx.Done():
			return // the writer drops what there is
		}
	}
}

// enqueue puts a reply, complete or not, behind those before it. The queue's length bounds
// how far a connection may run ahead; the writer takes from it until the end.
func (c *conn) enqueue(rep *reply) {
	c.unsent.Add(rep.size)
	c.replies <- rep
}
