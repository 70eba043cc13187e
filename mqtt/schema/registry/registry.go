package registry

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/mqtt/schema"
)

// Config says which registry, and how often.
type Config struct {
	URL                string
	Username, Password string         // basic authentication; "" for none
	Roots              *x509.CertPool // nil: the system's
	Refresh            time.Duration
	Logger             *slog.Logger
}

// pace is how soon a subject is asked for again, besides Refresh. Tests have a faster one.
type pace struct {
	again, longest time.Duration // after a failure: doubling from the one to the other
	early          time.Duration // for an id that a payload named
}

var calm = pace{again: time.Second, longest: 30 * time.Second, early: 5 * time.Second}

// Registry keeps the schemas that routes name up to date, from Run on.
type Registry struct {
	cfg      Config
	pace     pace
	client   *client
	counters schema.Counters
	errors   atomic.Int64
	kick     chan struct{} // room for one: something may be due
	start    time.Time

	mu      sync.Mutex
	entries map[schema.Rule]*entry
}

// entry is a subject with what the one goroutine that asks knows of it.
type entry struct {
	subject *schema.Subject
	since   time.Time   // when a route first named it
	early   atomic.Bool // a payload named an id that is not known

	known    map[int]*schema.Version // by number; the asking goroutine's
	next     time.Time               // when it is due; the asking goroutine's, as are the rest
	last     time.Time
	failures int
	said     string          // the last error that the log was told
	newest   *schema.Version // in force
	told     *schema.Version // that the log was told

	confirmed atomic.Int64 // nanoseconds since the registry's start at the last answer that could be used, 0 for none
}

// New makes a registry that knows nothing yet.
func New(cfg Config) *Registry {
	return &Registry{
		cfg: cfg, pace: calm, client: newClient(cfg.URL, cfg.Username, cfg.Password, cfg.Roots),
		kick: make(chan struct{}, 1), start: time.Now(), entries: map[schema.Rule]*entry{},
	}
}

// Subject is that of a rule; equal rules share one. What it knows comes later.
func (r *Registry) Subject(rule schema.Rule) *schema.Subject {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[rule]
	if e == nil {
		e = &entry{since: time.Now(), known: map[int]*schema.Version{}}
		e.subject = schema.NewSubject(rule, &r.counters, func() {
			e.early.Store(true)
			r.wake()
		})
		r.entries[rule] = e
		r.wake()
	}
	return e.subject
}

// Retain forgets the subjects of all other rules: routes that were replaced no longer ask.
func (r *Registry) Retain(rules []schema.Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rule := range r.entries {
		if !slices.Contains(rules, rule) {
			delete(r.entries, rule)
		}
	}
}

func (r *Registry) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run asks until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	defer r.client.http.CloseIdleConnections()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.kick:
		}
		r.round(ctx)
		timer.Reset(r.untilNext(time.Now()))
	}
}

func (r *Registry) list() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*entry, 0, len(r.entries))
	for _, e := range r.entries {
		all = append(all, e)
	}
	return all
}

// due is when an entry is to be asked for.
func (r *Registry) due(e *entry) time.Time {
	if early := e.last.Add(r.pace.early); e.early.Load() && early.Before(e.next) {
		return early
	}
	return e.next
}

func (r *Registry) untilNext(now time.Time) time.Duration {
	wait := r.cfg.Refresh
	for _, e := range r.list() {
		wait = min(wait, r.due(e).Sub(now))
	}
	return max(0, wait)
}

// round asks for all that is due. Once the registry does not answer, the others of the round are told what the first was. // R2
func (r *Registry) round(ctx context.Context) {
	var away error
	for _, e := range r.list() {
		now := time.Now()
		if now.Before(r.due(e)) || ctx.Err() != nil {
			continue
		}
		e.early.Store(false)
		e.last = now
		err := away
		if err == nil {
			err = r.refresh(ctx, e)
		}
		if ctx.Err() != nil {
			return
		}
		if unreachable(err) {
			away = err
		}
		r.settle(e, err)
	}
}

func (r *Registry) refresh(ctx context.Context, e *entry) error {
	asked := e.subject.Asked()
	versions, err := r.client.fetch(ctx, e)
	if err != nil {
		return err
	}
	clear(e.known)
	for _, v := range versions {
		e.known[v.Number] = v
	}
	e.newest = versions[0]
	e.subject.Known(versions, asked)
	return nil
}

// settle says when an entry is due again, and tells of what changed.
func (r *Registry) settle(e *entry, err error) {
	now := time.Now()
	if err == nil {
		e.failures, e.next = 0, now.Add(r.cfg.Refresh)
		e.confirmed.Store(int64(now.Sub(r.start)))
		if e.said != "" || e.newest != e.told {
			r.cfg.Logger.Info("schema in force", "subject", e.newest.Subject, "version", e.newest.Number, "id", e.newest.ID, "format", string(e.newest.Format))
		}
		e.said, e.told = "", e.newest
		return
	}
	r.errors.Add(1)
	e.subject.Failed(err)
	wait := min(r.pace.longest, r.cfg.Refresh, r.pace.again<<min(e.failures, 10))
	e.failures, e.next = e.failures+1, now.Add(wait)
	if text := err.Error(); text != e.said {
		e.said = text
		r.cfg.Logger.Warn("schema could not be had; what is known of it stays in force", "subject", e.subject.Rule.Subject, "known", len(e.known) > 0, "err", text)
	}
}

// unreachable tells an outage from an answer that is no use.
func unreachable(err error) bool {
	var status *errStatus
	var bad *unusable
	return err != nil && !errors.As(err, &status) && !errors.As(err, &bad)
}

// Stats are counters since start, except where they say "now". See doc.go for their metric names.
type Stats struct {
	Checked, Refused  int64
	Subjects, Unknown int64 // now
	Requests, Errors  int64
	Age               time.Duration // now
}

// Stats returns the counters. Safe for concurrent use.
func (r *Registry) Stats() Stats {
	s := Stats{Checked: r.counters.Checked.Load(), Refused: r.counters.Refused.Load(), Requests: r.client.requests.Load(), Errors: r.errors.Load()}
	for _, e := range r.list() {
		s.Subjects++
		since := e.since
		if at := e.confirmed.Load(); at != 0 {
			since = r.start.Add(time.Duration(at))
		} else {
			s.Unknown++
		}
		s.Age = max(s.Age, time.Since(since))
	}
	return s
}
