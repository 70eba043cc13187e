package sim

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// member is one process's part of it.
type member struct {
	q       *quorum
	p       *process
	id      meta.UUID
	onApply func(*meta.Image)
	image   atomic.Pointer[meta.Image]
	news    chan struct{}

	// guarded by s.mu
	index   int // of the newest entry applied
	leads   bool
	until   time.Duration // when a leader without a majority stops believing that it leads; 0 while it has one
	known   *member
	moved   chan struct{}
	applied chan struct{}
	gone    bool
}

func (m *member) poke() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// follow applies entries as they come.
func (m *member) follow() {
	for {
		select {
		case <-m.news:
		case <-m.p.ctx.Done():
			return
		}
		for m.step() {
		}
	}
}

// step applies the next entries; false: there are none.
func (m *member) step() bool {
	s, q := m.q.s, m.q
	s.mu.Lock()
	next, leads := len(q.images)-1, q.leader == m
	wait := q.tardy[m.p.n.i] - s.now()
	behind := next > m.index && !m.gone
	s.mu.Unlock()
	if !behind {
		return false
	}
	if !leads {
		r := s.draws.of(fmt.Sprintf("entry %d", m.p.n.i))
		if next > m.index+1 && chance(r, 2) {
			next = m.index + 1
		}
		if !m.p.sleep(max(wait, between(r, 200*time.Microsecond, 5*time.Millisecond))) {
			return false
		}
		if !q.reaches(m) {
			return m.p.sleep(between(r, 20*time.Millisecond, 80*time.Millisecond))
		}
	}
	for m.index < next {
		s.mu.Lock()
		if m.gone {
			s.mu.Unlock()
			return false
		}
		m.index++
		m.p.n.applied = max(m.p.n.applied, m.index)
		im := q.images[m.index]
		m.image.Store(im)
		close(m.applied)
		m.applied = make(chan struct{})
		s.mu.Unlock()
		m.onApply(im)
	}
	return true
}

// look brings up to date what a member believes. s.mu is held.
func (m *member) look(now time.Duration) {
	leads := m.q.leader == m && m.until == 0 || m.leads && now < m.until
	known := m.known
	if l := m.q.leader; l != nil && m.q.s.both(l.p.n.i, m.p.n.i) && !l.gone {
		known = l
	}
	if leads {
		known = m
	}
	if leads != m.leads || known != m.known {
		m.leads, m.known = leads, known
		close(m.moved)
		m.moved = make(chan struct{})
	}
}

var errLost = errors.New("the lead was lost")

// Propose implements cluster.Member.
func (m *member) Propose(ctx context.Context, cmd meta.Command) (any, error) {
	data, err := meta.EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	if cmd, err = meta.DecodeCommand(data); err != nil {
		return nil, err
	}
	if err := m.awaitLead(ctx); err != nil {
		return nil, err
	}
	r := m.q.s.draws.of(fmt.Sprintf("propose %d", m.p.n.i))
	took, lost := between(r, 300*time.Microsecond, 6*time.Millisecond), chance(r, 40)
	if !sleep(ctx, took) {
		return nil, unavailable(context.Cause(ctx))
	}
	if !m.q.majority(m) {
		return nil, m.uncertain(ctx, cmd)
	}
	s := m.q.s
	s.mu.Lock()
	if m.q.leader != m || m.gone {
		s.mu.Unlock()
		return nil, m.uncertain(ctx, cmd)
	}
	answer, err := m.q.commit(cmd)
	at := len(m.q.images) - 1
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if lost && m.q.s.harsh {
		return nil, unavailable(errLost)
	}
	return answer, m.await(ctx, at)
}

// uncertain leaves a command to whoever leads next, and tells its proposer some time later that it is not known what becomes of it.
func (m *member) uncertain(ctx context.Context, cmd meta.Command) error {
	m.q.s.mu.Lock()
	if len(m.q.limbo) < 8 {
		m.q.limbo = append(m.q.limbo, cmd)
	}
	moved := m.moved
	m.q.s.mu.Unlock()
	select {
	case <-moved:
	case <-time.After(time.Second): // it leads on: the majority was away for a moment
	case <-ctx.Done():
	case <-m.p.ctx.Done():
	}
	return unavailable(errLost)
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", meta.ErrUnavailable, cause) }

// await returns when an entry is applied here.
func (m *member) await(ctx context.Context, at int) error {
	for {
		m.q.s.mu.Lock()
		applied, reached := m.applied, m.index >= at
		m.q.s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return unavailable(context.Cause(ctx))
		case <-m.p.ctx.Done():
			return unavailable(errOff)
		}
	}
}

func (m *member) awaitLead(ctx context.Context) error {
	for {
		m.q.s.mu.Lock()
		leads, known, moved, gone := m.leads, m.known, m.moved, m.gone
		m.q.s.mu.Unlock()
		switch {
		case gone:
			return unavailable(errOff)
		case leads:
			return nil
		case known != nil && known != m:
			return meta.ErrNotLeader
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return unavailable(context.Cause(ctx))
		case <-m.p.ctx.Done():
			return unavailable(errOff)
		}
	}
}

// Image implements cluster.Member.
func (m *member) Image() *meta.Image { return m.image.Load() }

// Leader implements cluster.Member.
func (m *member) Leader() string {
	m.q.s.mu.Lock()
	defer m.q.s.mu.Unlock()
	if m.known == nil || m.gone {
		return ""
	}
	return m.known.id.String()
}

// Leads implements cluster.Member.
func (m *member) Leads() (bool, <-chan struct{}) {
	m.q.s.mu.Lock()
	defer m.q.s.mu.Unlock()
	return m.leads && !m.gone, m.moved
}

// Barrier implements cluster.Member.
func (m *member) Barrier(ctx context.Context) error {
	m.q.s.mu.Lock()
	at, leads := len(m.q.images)-1, m.q.leader == m
	m.q.s.mu.Unlock()
	if !leads || !m.q.majority(m) {
		return unavailable(errLost)
	}
	return m.await(ctx, at)
}

// Applied implements cluster.Member.
func (m *member) Applied() uint64 {
	m.q.s.mu.Lock()
	defer m.q.s.mu.Unlock()
	return uint64(m.index)
}

// HandOver implements cluster.Member.
func (m *member) HandOver() error {
	for _, n := range m.q.s.nodes {
		if p := n.now(); p != nil && p != m.p && p.part() != nil && m.q.majority(p.part()) {
			other := p.part()
			m.q.s.mu.Lock()
			m.q.elect(other, 0)
			m.q.s.mu.Unlock()
			return nil
		}
	}
	return unavailable(errLost)
}

// Close implements cluster.Member.
func (m *member) Close() error {
	m.q.s.mu.Lock()
	defer m.q.s.mu.Unlock()
	m.gone = true
	return nil
}
