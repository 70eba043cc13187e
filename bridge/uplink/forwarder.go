package uplink

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-io/weir/log"
)

// Options are what a Forwarder is made of.
type Options struct {
	Config  Config // checked
	Shard   int    // of Config.Shards
	Cluster string // id
	Site    string

	Source     Source
	Store      Store
	DeadLetter DeadLetter
	Inlet      Inlet        // of shard 0, where Config.Down is not empty
	Logger     *slog.Logger // names the uplink with each line

	target func() target // [what Config.To says]; tests have their own
	dial   dialer        // of MQTT [dialTarget]
}

// Forwarder carries one shard of an uplink. Run it once; the other methods may be called at any time by anybody.
type Forwarder struct {
	Options
	downs []*down
	wake  chan struct{} // holds a token while there may be something to look at
	again chan struct{} // and this one while an operator has said something

	mu          sync.Mutex
	parts       map[log.PartitionID]*part
	topics      map[string]int // partitions that each topic is known to have
	paused      bool
	known       map[log.PartitionID]progress // what the target knew when it was opened
	accepted    string                       // of accept, for this connection
	accept      string                       // what to do about what the target has forgotten: acceptTarget or acceptHere
	state       figures
	spentStored string          // of the budgets, as it was put last
	budgets     []budget        // by class of links, or one
	budget      *budget         // that counts now
	link        int             // class in use [-1: there are none]
	linkErr     error           // why nobody can tell
	abandon     func(error)     // ends the connection
	away        map[int32]error // nodes that are looked at since they have not answered a read

	rules []*rule // of Config.Lanes

	// Of Run's goroutine.
	running   context.Context // ends with Run
	looks     sync.WaitGroup
	pace      pace
	patience  patience
	turn      int
	rest      *chunk // what was read, and is to be committed with what comes next
	only      int    // records at once while a refused one is looked for [no limit]
	live      map[log.PartitionID]log.Offset
	buf       []byte
	records   log.RecordReader
	squeeze   squeeze
	seen      seenProgress
	producers string // that are stored
}

// part is one partition of the shard. Of its fields only cursor, left, saved and why are written after it was made, under Forwarder.mu.
type part struct {
	f      *Forwarder
	log    Log
	lane   lane
	rule   *rule  // of the lane; nil carries everything as it is
	remote string // topic at the target
	stop   func()

	downward bool // the topic gets what comes down

	cursor Cursor  // confirmed
	taken  bool    // cursor is in line with what the target knows
	unsure bool    // nobody knows yet where the log begins: nor where cursor does, which is fresh
	fresh  bool    // cursor is where the carrying began; nothing is confirmed yet
	dead   []Span  // put into the dead-letter topic, in no commit yet
	tell   bool    // an operator has said that cursor counts, whatever the target knows; in no commit yet
	saved  bool    // the Store has cursor
	left   account // what was left out by rule up to cursor, and is told by it only
	tally  tally
	until  time.Time
	why    error // nothing is carried before until
	hole   hole
}

// partitions is how many its topic has here.
func (p *part) partitions() int {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return p.f.topics[p.log.Topic()]
}

// New makes a forwarder.
func New(o Options) *Forwarder {
	f := &Forwarder{Options: o, wake: make(chan struct{}, 1), again: make(chan struct{}, 1), parts: map[log.PartitionID]*part{}, topics: map[string]int{}, live: map[log.PartitionID]log.Offset{}, away: map[int32]error{}}
	f.budgets = o.Config.budgets()
	f.link = o.Config.careful() // until somebody has looked; -1 without classes
	f.budget = &f.budgets[max(f.link, 0)]
	for i := range o.Config.Lanes {
		f.rules = append(f.rules, o.Config.Lanes[i].newRule())
	}
	if f.Options.dial == nil {
		f.Options.dial = dialTarget
	}
	if f.Shard == 0 {
		for _, d := range o.Config.Down {
			f.downs = append(f.downs, newDown(f, d))
		}
	}
	if f.Options.target == nil {
		f.Options.target = func() target {
			if f.Config.isMQTT() {
				t := newMQTTTarget(&f.Config, o.Cluster, o.Site, o.Shard, f.Logger.Warn)
				t.patience = &f.patience
				return t
			}
			t := newKafkaTarget(&f.Config, o.Cluster, o.Site, o.Shard, &f.seen)
			t.alone, t.warn, t.carried, t.patience = f.only == 1, f.warned, f.carried, &f.patience
			t.squeeze = &f.squeeze
			t.waits = func(why string) { f.told(func(s *figures) { s.opening = why }) }
			t.logger = f.Logger.With("to", f.Config.To)
			return t
		}
	}
	return f
}

// ShardOf says which shard carries a partition.
func (c *Config) ShardOf(id log.PartitionID) int {
	return int((crc32.ChecksumIEEE(id.Topic[:]) + uint32(id.Index)) % uint32(max(c.Shards, 1)))
}

const (
	minBackOff = 500 * time.Millisecond
	maxBackOff = 30 * time.Second
	minSearch  = 50 * time.Millisecond
	saveEvery  = time.Second // cursors are written here so often at most
	saveWait   = 2 * time.Second
)

// Run carries until ctx ends. What fails is tried again, with growing pauses; it returns when the store cannot be read, which is for the owner of the shard.
func (f *Forwarder) Run(ctx context.Context) error {
	if err := f.Store.Load(f.restore); err != nil {
		return fmt.Errorf("uplink %s: read its cursors: %w", f.Config.Name, err)
	}
	stop := f.Source.Watch(f.added, f.removed)
	defer func() {
		stop()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, p := range f.parts {
			p.stop()
		}
	}()
	defer f.save(true)
	f.running = ctx
	defer f.looks.Wait()
	var downs sync.WaitGroup
	defer downs.Wait()
	for _, d := range f.downs {
		downs.Go(func() { d.run(ctx) })
	}
	if len(f.Config.Links) > 0 {
		first := make(chan struct{})
		w := &linkWatch{f: f, first: first}
		f.looks.Go(func() { w.run(ctx) })
		select {
		case <-first:
		case <-ctx.Done():
		}
	}
	pause := minBackOff
	for ctx.Err() == nil {
		began := time.Now()
		err := f.connected(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			continue
		}
		var refused *refusedError
		searches := errors.As(err, &refused)
		if searches { // for a refused record, which takes a few turns: it is not that the target is in trouble
			pause = minSearch
		} else if pause = max(pause, minBackOff); time.Since(began) > maxBackOff {
			pause = minBackOff
		}
		if !searches {
			f.pace.failed()
			f.squeeze.failed()
		}
		f.failed(err)
		f.save(false) // it may be long before there is something to carry again
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-f.again:
		case <-ctx.Done():
		}
		pause = min(2*pause, maxBackOff)
	}
	f.told(func(s *figures) { s.up = false })
	return nil
}

// connected carries over one connection, until something fails; nil when the next one is to be of another kind, or go another way.
func (f *Forwarder) connected(ctx context.Context) error {
	ctx, abandon := context.WithCancelCause(ctx)
	defer abandon(nil)
	f.mu.Lock()
	f.abandon = abandon
	f.mu.Unlock()
	err := f.connection(ctx)
	if errors.Is(context.Cause(ctx), errOtherLink) {
		f.told(func(s *figures) { s.up = false })
		return nil
	}
	return err
}

func (f *Forwarder) connection(ctx context.Context) error {
	if !f.waitPaused(ctx) {
		return nil
	}
	alone := f.only == 1
	t := f.Options.target()
	defer t.close()
	var counted int64
	defer func() { f.charge(t, &counted) }()
	open, cancel := context.WithTimeoutCause(ctx, 2*deliveryTimeout, errors.New("the target does not answer in time"))
	known, err := t.open(open)
	cancel()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.known, f.accepted, f.accept = known, f.accept, ""
	for _, p := range f.parts {
		p.taken = false
	}
	f.mu.Unlock()
	clear(f.live)
	f.rest = nil
	if _, _, err := f.views(); err != nil {
		return err
	}
	n, _ := t.(noticing)
	f.told(func(s *figures) { s.up, s.err, s.opening, s.reached = true, nil, "", n })
	defer f.told(func(s *figures) { s.reached = nil }) // before it is closed
	for ctx.Err() == nil {
		f.charge(t, &counted)
		f.useLink()
		if n != nil {
			if err := n.ended(); err != nil {
				return err
			}
		}
		if !f.mayGo(ctx) {
			continue
		}
		f.told(func(s *figures) { s.sentAt = time.Now() })
		more, err := f.chunk(ctx, t)
		f.told(func(s *figures) { s.sentAt = time.Time{} })
		if err != nil {
			return err
		}
		if alone != (f.only == 1) {
			return nil
		}
		if !more {
			f.idle(ctx)
		}
	}
	return nil
}

// take brings a partition's cursor in line with what the target knows (U3, U5). Under mu; once for each connection, before anything is carried.
func (f *Forwarder) take(id log.PartitionID, p *part) error {
	p.taken = true
	if f.known == nil {
		return nil // the target keeps none
	}
	theirs, there := f.known[id]
	if !there && p.fresh {
		return nil
	}
	at := theirs.Cursor.clone()
	if !at.Covers(p.cursor) {
		switch {
		case f.accepted == acceptTarget:
			p.tell = false
		case f.accepted == acceptHere, p.tell:
			p.tell = true // or it would ask again with the next connection
			return nil
		default:
			p.taken = false
			return fmt.Errorf("the target has confirmed %[1]s, partition %[2]d, up to offset %[3]d, and now knows of %[4]d only: it was made anew or restored from an old copy. To send again from there what is still kept here: "+
				"weir bridge resume %[5]s --from target; to go on behind what was confirmed: weir bridge resume %[5]s --from here: %[6]w", p.log.Topic(), id.Index, p.cursor.Next, at.Next, f.Config.Name, errWentBack)
		}
	}
	p.saved = p.saved && p.cursor.Covers(at)
	p.cursor, p.left, p.fresh = at, theirs.Left, false
	return nil
}

// What an operator can say about that.
const (
	acceptTarget = "target" // send again from where the target is
	acceptHere   = "here"   // go on behind what it had confirmed
)

// errWentBack marks U5.
var errWentBack = errors.New("nothing is carried meanwhile")
