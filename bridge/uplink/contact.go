package uplink

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// contact watches the connections to a target from when a transaction is to be committed until the target has taken something of the next one: a coordinator that has answered that
// it is committed, or was about to, may crash before the partitions have their markers. The connection breaks then; and what the client would send again over a new one, to a
// target that was started again meanwhile, would stand in one transaction with what hangs there, and be aborted or committed together with it (U11). So nothing is sent, and the
// uplink begins anew, which ends what hangs. Once something of the next transaction is taken, the coordinator has ended the one before.
type contact struct {
	phase atomic.Int32
	lost  atomic.Bool
	gone  context.Context // ends when nothing may be sent any more
	leave context.CancelFunc
}

// Phases of a contact.
const (
	underway  = iota // the target has something of the transaction; also before the first
	ending           // it is to be committed
	confirmed        // it was, and the target has nothing of the next one
)

func newContact() *contact {
	c := &contact{}
	c.gone, c.leave = context.WithCancel(context.Background())
	return c
}

var errLostContact = errors.New("the connection broke just when the target had confirmed: it is asked first whether it has ended the transaction")

// to begins a phase.
func (c *contact) to(phase int32) { c.phase.Store(phase) }

// taken notes that something of a transaction was taken.
func (c *contact) taken() {
	if c.phase.Load() == confirmed && !c.lost.Load() {
		c.to(underway)
	}
}

// broken notes that a connection broke or was not to be had.
func (c *contact) broken() {
	switch c.phase.Load() {
	case ending:
		c.lost.Store(true)
	case confirmed:
		c.lost.Store(true)
		c.leave()
	}
}

// check says whether something may be sent.
func (c *contact) check() error {
	if c.lost.Load() {
		return errLostContact
	}
	return nil
}

// OnBrokerConnect is kgo's hook, called before anything goes over the connection. That somebody accepts it says nothing yet about whether the target answers.
func (t *kafkaTarget) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, conn net.Conn, err error) {
	if err != nil {
		t.answers.note(err)
		t.contact.broken()
	} else if t.contact.phase.Load() == confirmed && t.contact.lost.Load() {
		_ = conn.Close()
	}
}

// OnBrokerWrite is kgo's hook.
func (t *kafkaTarget) OnBrokerWrite(_ kgo.BrokerMetadata, _ int16, n int, _, _ time.Duration, err error) {
	t.written.Add(int64(n))
	if err != nil {
		t.contact.broken()
	}
}

// OnBrokerRead is kgo's hook, called before the client does anything about the error.
func (t *kafkaTarget) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err != nil {
		t.contact.broken()
	}
}
