package uplink

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// contact watches the connections to a target from when a transaction is to be committed until the target has taken something of the next one: a coordinator that has answered that
// it is committed, or was about to, may crash before the partitions have their markers. The connection breaks then; and what the client would send again over a new one, to a
// target that was started again meanwhile, would stand in one transaction with what hangs there, and be aborted or committed together with it (U11). So nothing is sent, and the
// uplink begins anew, which ends what hangs. Once a broker has taken something of the next transaction, the coordinator has ended the one before, and this broker was there to be
// told. Of several brokers each counts by itself: what one of them takes says nothing about another that was away just then, with partitions of which the coordinator found no leader.
type contact struct {
	gone  context.Context // ends when nothing may be sent any more
	leave context.CancelFunc
	// leader is the broker that has a partition, as far as the client knows.
	leader func(topic string, partition int32) (node, epoch int32, err error)

	mu    sync.Mutex
	phase int
	lost  bool
	last  spot           // in which something was taken
	holds map[int32]bool // brokers that have something of the transaction that is underway
	owed  map[int32]bool // and those that had something of one that was confirmed, and have nothing of a later one
}

// Phases of a contact.
const (
	underway  = iota // the target has something of the transaction; also before the first
	ending           // it is to be committed
	confirmed        // it was, and the target has nothing of the next one
)

func newContact() *contact {
	c := &contact{holds: map[int32]bool{}, owed: map[int32]bool{}}
	c.gone, c.leave = context.WithCancel(context.Background())
	return c
}

var errLostContact = errors.New("the connection broke just when the target had confirmed: it is asked first whether it has ended the transaction")

// to begins a phase.
func (c *contact) to(phase int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase = phase; phase != confirmed {
		return
	}
	for node := range c.holds {
		c.owed[node] = true
	}
	clear(c.holds)
	c.last = spot{}
}

// taken notes that something of a transaction was taken.
func (c *contact) taken(s spot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == s || c.lost {
		return
	}
	c.last = s
	if c.phase == confirmed {
		c.phase = underway
	}
	if node, _, err := c.leader(s.topic, s.index); err == nil {
		c.holds[node] = true
		delete(c.owed, node)
	}
}

// broken notes that a connection to a broker broke or was not to be had.
func (c *contact) broken(node int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase == ending:
		c.lost = true
	case c.phase == confirmed, c.owed[node]:
		c.lost = true
		c.leave()
	}
}

// check says whether something may be sent.
func (c *contact) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return errLostContact
	}
	return nil
}

// refuses says whether a new connection is of no use: it would be written to.
func (c *contact) refuses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost && c.phase != ending
}

// waits says whether it matters that a connection to a broker breaks.
func (c *contact) waits(node int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.lost && (c.phase != underway || c.owed[node])
}

// OnBrokerConnect is kgo's hook, called before anything goes over the connection. That somebody accepts it says nothing yet about whether the target answers.
func (t *kafkaTarget) OnBrokerConnect(b kgo.BrokerMetadata, _ time.Duration, conn net.Conn, err error) {
	if err != nil {
		t.answers.note(err)
		t.contact.broken(b.NodeID)
	} else if t.contact.refuses() {
		_ = conn.Close()
	}
}

// OnBrokerWrite is kgo's hook.
func (t *kafkaTarget) OnBrokerWrite(b kgo.BrokerMetadata, _ int16, n int, _, _ time.Duration, err error) {
	t.written.Add(int64(n))
	if err != nil {
		t.contact.broken(b.NodeID)
	}
}

// OnBrokerRead is kgo's hook, called before the client does anything about the error.
func (t *kafkaTarget) OnBrokerRead(b kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err != nil {
		t.contact.broken(b.NodeID)
	}
}

// OnBrokerDisconnect is kgo's hook. The client closes what it has not used for half a minute, and does not look whether the other side was there all the time.
func (t *kafkaTarget) OnBrokerDisconnect(b kgo.BrokerMetadata, conn net.Conn) {
	if t.contact.gone.Err() != nil || !t.contact.waits(b.NodeID) {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(lastLook))
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.contact.broken(b.NodeID)
	}
}

// lastLook is long enough to be told what this host knows of a connection already.
const lastLook = 10 * time.Millisecond
