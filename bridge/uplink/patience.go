package uplink

import (
	"context"
	"errors"
	"time"
)

// patience is how long a chunk may take. What the pace makes takes a second or so on any link; a record that is larger than that takes what it takes, which nobody knows
// before: each time that such a one was given up it gets four times as long. The zero value has the usual patience. It is pure.
type patience struct {
	extra time.Duration // on top of transactionTimeout
	most  time.Duration // that the target allows, 0 while it has allowed everything
	calm  int           // commits without a large record since it was set last
}

const (
	// longestTransaction is Kafka's transaction.max.timeout.ms unless told otherwise.
	longestTransaction = 15 * time.Minute
	// largeRecord is what does not fit into the smallest of chunks several times over: smaller ones take their time because something is wrong, not because they are large.
	largeRecord = 4 * minChunk
	// giveUp is how long before the target gives up its transaction a chunk is given up here.
	giveUp = 5 * time.Second
)

// errLate marks what was given up for its time.
var errLate = errors.New("the target does not confirm in time")

// transaction is when the target is to give up a transaction whose gateway has vanished.
func (p *patience) transaction() time.Duration { return transactionTimeout + p.extra }

// chunk is when a chunk is given up. One without a large record is not waited for any longer than usual: a connection that is dead would be found out only then.
func (p *patience) chunk(large bool) time.Duration {
	if large {
		return p.transaction() - giveUp
	}
	return transactionTimeout - giveUp
}

func (p *patience) set(transaction time.Duration) {
	longest := longestTransaction
	if p.most > 0 {
		longest = p.most
	}
	p.calm = 0
	p.extra = max(min(transaction, longest)-transactionTimeout, 0)
}

// late notes that a chunk with a large record was given up.
func (p *patience) late() { p.set(4 * p.transaction()) }

// took notes how long one has taken: on a better link the next connection is begun with less.
func (p *patience) took(d time.Duration) { p.set(min(4*d, p.transaction())) }

// ordinary notes a commit without a large record: after calmCommits of them the next connection is begun with less. What hangs of a gateway that has vanished holds up others as
// long as its transaction may last.
func (p *patience) ordinary() {
	if p.calm++; p.extra > 0 && p.calm >= calmCommits {
		p.set(p.transaction() / 4)
	}
}

// calmCommits is more than come between two attempts at a large record.
const calmCommits = 1000

// refused notes that the target allows no transactions of that length, but of this one; 0 when it does not say.
func (p *patience) refused(allowed time.Duration) {
	if allowed <= 0 || allowed >= p.transaction() {
		allowed = p.transaction() / 2
	}
	p.most = max(allowed, transactionTimeout)
	p.set(p.most)
}

// timed gives a chunk's context, and a function that has it last as long as one with a large record.
func (p *patience) timed(ctx context.Context) (_ context.Context, large func(), stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(p.chunk(false), func() { cancel(errLate) })
	began, longer := time.Now(), false
	large = func() {
		if !longer && timer.Stop() {
			longer = true
			timer.Reset(p.chunk(true) - time.Since(began))
		}
	}
	return ctx, large, func() {
		timer.Stop()
		cancel(nil)
	}
}
