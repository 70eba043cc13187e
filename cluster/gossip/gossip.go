package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Timing says how fast a silent member is noticed.
type Timing struct {
	ProbeInterval, ProbeTimeout time.Duration
	SuspicionMult               int
	GossipInterval              time.Duration
	PushPullInterval            time.Duration
}

// Profiles. A member that lost its power is called failed after about 6 s (LAN) and 13 s (edge).
var (
	LANTiming  = Timing{time.Second, 500 * time.Millisecond, 4, 400 * time.Millisecond, 30 * time.Second}
	EdgeTiming = Timing{2 * time.Second, time.Second, 5, 500 * time.Millisecond, 60 * time.Second}
)

// Config says who a node is and whom it joins. Zero fields take the default in brackets.
type Config struct {
	ID        string // the broker's uuid (C2)
	Listen    string // host:port, TCP and UDP
	Advertise string // host:port that peers are told [what is bound]
	Join      []string
	Tags      Tags
	Keyring   [][]byte // the first is used to send; none: nothing is encrypted
	// KeyringFile is where rotated keys are kept; Keyring was read from it.
	KeyringFile string
	// SnapshotFile remembers members over restarts, so that a node finds the others without Join.
	SnapshotFile string
	Timing       Timing        // [LANTiming]
	JoinEvery    time.Duration // between tries [5 s]
	Logger       *slog.Logger  // [discard]
}

// Status is how a member looks from here.
type Status string

// Statuses.
const (
	Alive  Status = "alive"
	Failed Status = "failed" // silent; it is looked for
	Left   Status = "left"   // said that it will not come back
)

// Member is one node as this one sees it.
type Member struct {
	ID     string
	Addr   string // host:port of its gossip
	Status Status
	Tags   Tags
}

// Gossip is a node's place among the others. All its methods may be called concurrently.
type Gossip struct {
	cfg    Config
	serf   *serf.Serf
	ring   *memberlist.Keyring // nil without keys
	events chan serf.Event

	refused atomic.Int64
	said    sync.Map // clusters whose members were refused, so that each is logged once

	recent struct { // see Recent
		sync.Mutex
		at      time.Time
		members []Member
	}

	mu      sync.Mutex
	tags    Tags          // as they should be
	pending bool          // tags have changed and were not handed on
	changed chan struct{} // closed and replaced when a member changed
	nudge   chan struct{}
	refusal error // why members were refused last
	// stranger is set while the last address to join that answered was that of another cluster.
	stranger error
	tried    chan struct{} // closed after the first attempt to join
}

// tagsEvery bounds how often tags are handed on.
const tagsEvery = 10 * time.Second

// Open binds the port and begins to listen. Run joins the others.
func Open(cfg Config) (*Gossip, error) {
	if cfg.Timing == (Timing{}) {
		cfg.Timing = LANTiming
	}
	if cfg.JoinEvery == 0 {
		cfg.JoinEvery = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{cfg: cfg, tags: cfg.Tags, events: make(chan serf.Event, 256), changed: make(chan struct{}), nudge: make(chan struct{}, 1), tried: make(chan struct{})}
	c, err := g.serfConfig()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if g.serf, err = serf.Create(c); err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", cfg.Listen, err)
	}
	return g, nil
}

func (g *Gossip) serfConfig() (*serf.Config, error) {
	c, m, t := serf.DefaultConfig(), memberlist.DefaultLANConfig(), g.cfg.Timing
	var err error
	if m.BindAddr, m.BindPort, err = split(g.cfg.Listen); err != nil {
		return nil, err
	}
	if g.cfg.Advertise != "" {
		if m.AdvertiseAddr, m.AdvertisePort, err = split(g.cfg.Advertise); err != nil {
			return nil, err
		}
	}
	if c.Tags, err = g.cfg.Tags.encode(); err != nil {
		return nil, err
	}
	m.ProbeInterval, m.ProbeTimeout, m.SuspicionMult = t.ProbeInterval, t.ProbeTimeout, t.SuspicionMult
	m.GossipInterval, m.PushPullInterval = t.GossipInterval, t.PushPullInterval
	m.UDPBufferSize = 1200 // fits tunnels
	// Without it a failed node that comes back at another address is refused by name for ever.
	m.DeadNodeReclaimTime = t.ProbeInterval
	if len(g.cfg.Keyring) > 0 {
		if m.Keyring, err = memberlist.NewKeyring(g.cfg.Keyring, g.cfg.Keyring[0]); err != nil {
			return nil, err
		}
		g.ring, c.KeyringFile = m.Keyring, g.cfg.KeyringFile
	}
	out := lines{g.cfg.Logger}
	m.LogOutput, c.LogOutput = out, out
	c.NodeName, c.MemberlistConfig, c.EventCh, c.Merge = g.cfg.ID, m, g.events, g
	c.SnapshotPath, c.RejoinAfterLeave = g.cfg.SnapshotFile, true
	c.EnableNameConflictResolution = false // it would shut one of them down; the quorum refuses the copy (C4)
	c.ReconnectTimeout, c.TombstoneTimeout = 7*24*time.Hour, 24*time.Hour
	c.LeavePropagateDelay, c.MinQueueDepth, c.DisableCoordinates = time.Second, 4096, true
	return c, nil
}

func split(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: want host:port", addr)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: port %q is no number from 0 to 65535", addr, text)
	}
	return host, int(n), nil
}

// NotifyMerge implements serf.MergeDelegate: nodes of another cluster stay out, on both sides (C3).
func (g *Gossip) NotifyMerge(members []*serf.Member) error {
	g.mu.Lock()
	mine := g.tags.Cluster
	g.mu.Unlock()
	for _, m := range members {
		other := decode(m.Tags)
		if mine == "" || other.Cluster == "" || mine == other.Cluster {
			continue
		}
		g.refused.Add(1)
		err := fmt.Errorf("node %q at %s belongs to cluster %s, this is %s", other.Name, m.Addr, other.Cluster, mine)
		g.mu.Lock()
		g.refusal = err
		g.mu.Unlock()
		if _, said := g.said.LoadOrStore(other.Cluster, true); !said {
			g.cfg.Logger.Warn("refused a member of another cluster: join it with an empty data directory", "error", err)
		}
		return err
	}
	return nil
}

// Run joins, and goes on joining until every address was reached and whenever nobody else is alive, until ctx ends.
func (g *Gossip) Run(ctx context.Context) error {
	var joining sync.WaitGroup
	defer joining.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	joining.Go(func() { g.joinOn(ctx) }) // apart: an address that does not answer takes seconds, and serf waits for its events to be taken
	var tell <-chan time.Time
	last := time.Now().Add(-tagsEvery)
	for {
		select {
		case <-g.events:
			g.announce()
		case <-g.nudge:
			if tell == nil {
				tell = time.After(time.Until(last.Add(tagsEvery)))
			}
		case <-tell:
			tell, last = nil, time.Now()
			g.handOn()
		case <-g.serf.ShutdownCh():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// Keys are those in force, the one that is used to send first; none where nothing is encrypted. They change when keys are rotated.
func (g *Gossip) Keys() [][]byte {
	if g.ring == nil {
		return nil
	}
	return slices.Clone(g.ring.GetKeys())
}

func (g *Gossip) announce() {
	g.recent.Lock()
	g.recent.members = nil
	g.recent.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changed)
	g.changed = make(chan struct{})
}

// Changed gives a channel that is closed when a member appears, goes or changes. Look at Members after taking it.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// SetTags changes what this node says of itself. Peers hear of it within tagsEvery and a little.
func (g *Gossip) SetTags(change func(*Tags)) error {
	g.mu.Lock()
	next := g.tags
	change(&next)
	_, err := next.encode()
	if err == nil && next != g.tags {
		g.tags, g.pending = next, true
	}
	g.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case g.nudge <- struct{}{}:
	default:
	}
	return nil
}

func (g *Gossip) handOn() {
	g.mu.Lock()
	tags, pending := g.tags, g.pending
	g.pending = false
	g.mu.Unlock()
	if !pending {
		return
	}
	m, err := tags.encode()
	if err == nil {
		err = g.serf.SetTags(m)
	}
	if err != nil {
		g.cfg.Logger.Warn("cannot tell the other nodes of a change", "error", err)
	}
}

// Members lists everybody known, by id, this node included.
func (g *Gossip) Members() []Member {
	var ms []Member
	for _, m := range g.serf.Members() {
		status := Failed
		switch m.Status {
		case serf.StatusAlive:
			status = Alive
		case serf.StatusLeft, serf.StatusLeaving:
			status = Left
		}
		ms = append(ms, Member{m.Name, net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port))), status, decode(m.Tags)})
	}
	slices.SortFunc(ms, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return ms
}

// recently is how old what Recent answers may be.
const recently = time.Second

// Recent is Members, up to a second old: for who asks with every message.
func (g *Gossip) Recent() []Member {
	g.recent.Lock()
	defer g.recent.Unlock()
	if now := time.Now(); g.recent.members == nil || now.Sub(g.recent.at) > recently {
		g.recent.members, g.recent.at = g.Members(), now
	}
	return g.recent.members
}

// Addr is where this node's gossip is really bound.
func (g *Gossip) Addr() string {
	m := g.serf.LocalMember()
	return net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))
}

// Rotate replaces the key that the cluster sends with: the new one is given to everybody first, then used, then the old ones are
// taken away. A node that does not answer stops it; calling it again goes on.
func (g *Gossip) Rotate(key string) error {
	k := g.serf.KeyManager()
	steps := []struct {
		doing string
		do    func(string) (*serf.KeyResponse, error)
	}{{"install the new key", k.InstallKey}, {"use the new key", k.UseKey}}
	for _, s := range steps {
		if err := keyAnswer(s.do(key)); err != nil {
			return fmt.Errorf("%s: %w", s.doing, err)
		}
	}
	all, err := k.ListKeys()
	if err := keyAnswer(all, err); err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	for old := range all.Keys {
		if old == key {
			continue
		}
		if err := keyAnswer(k.RemoveKey(old)); err != nil {
			return fmt.Errorf("remove an old key: %w", err)
		}
	}
	return nil
}

func keyAnswer(r *serf.KeyResponse, err error) error {
	if err == nil {
		return nil
	}
	if r == nil {
		return err
	}
	errs := []error{err}
	for node, text := range r.Messages {
		if text != "" {
			errs = append(errs, fmt.Errorf("node %s: %s", node, text))
		}
	}
	return errors.Join(errs...)
}

// Leave says that this node will not come back. Only decommissioning calls it; a stop does not.
func (g *Gossip) Leave() error {
	if err := g.serf.Leave(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// Close stops without leaving: the others see this node as failed, and go on looking for it.
func (g *Gossip) Close() error {
	if err := g.serf.Shutdown(); err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}

// Stats are the figures of doc.go's metrics.
type Stats struct {
	Members map[Status]int
	Health  int
	Refused int64
}

// Stats counts members.
func (g *Gossip) Stats() Stats {
	s := Stats{Members: map[Status]int{Alive: 0, Failed: 0, Left: 0}, Health: g.serf.Memberlist().GetHealthScore(), Refused: g.refused.Load()}
	for _, m := range g.Members() {
		s.Members[m.Status]++
	}
	return s
}

// lines passes what serf and memberlist say to slog.
type lines struct{ to *slog.Logger }

func (l lines) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	level := slog.LevelDebug // a node that is away, or goes, is told elsewhere
	if strings.Contains(text, "[ERR]") {
		level = slog.LevelWarn // the others' faults, mostly
	}
	if _, after, found := strings.Cut(text, "] "); found { // "<time> [LEVEL] serf: …"
		text = after
	}
	l.to.Log(context.Background(), level, text)
	return len(b), nil
}
