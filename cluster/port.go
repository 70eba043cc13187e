package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/quorum"
	"github.com/weir-io/weir/cluster/rpc"
)

// PeerConfig says where a node meets others, and whom it looks for. Zero fields take the default in brackets.
type PeerConfig struct {
	Listen    string   // host:port of the quorum and of calls
	Advertise string   // host that others are told [Config.AdvertiseHost]
	Gossip    string   // host:port of Serf, TCP and UDP
	Join      []string // gossip addresses, tried for ever
	Expect    int      // nodes that form the quorum together; 0 waits to be added

	Timing       control.Timing // [control.LANTiming]
	GossipTiming gossip.Timing  // [gossip.LANTiming]
	Pace         time.Duration  // of the quorum's membership [quorum.Pace]

	Zone    string
	Witness bool     // votes on metadata and takes no replicas
	Keys    [][]byte // of gossip and calls, the one in use first; none: whoever reaches the ports is believed
	KeyFile string   // where rotated keys are kept

	Version string // of this build
	Kafka   string // host:port that clients are told, for others to show
	MQTT    string

	Seams *Seams // a simulator's
}

// port is how a node meets others: its listener, who calls, and what gossip says of whom.
type port struct {
	b      *Broker
	cfg    PeerConfig
	rpc    rpc.Config
	stats  rpc.Stats
	ln     *rpc.Listener
	layer  *rpc.QuorumLayer
	gossip *gossip.Gossip
	peers  *peers
	keeper *quorum.Keeper

	mu    sync.Mutex
	rooms map[rpc.Method]rpc.Handler

	running sync.WaitGroup
	stop    context.CancelFunc
}

// openPort binds the ports, and has raft use them.
func (b *Broker) openPort(o *meta.Options) error {
	cfg := *b.cfg.Peer
	if former := b.ident.Former; former != "" {
		cfg.Expect = 0 // it forms no cluster, where its records would be strangers
		b.cfg.Logger.Info("this directory waits to be taken in by its cluster again", "cluster", former)
	}
	p := &port{b: b, cfg: cfg, rooms: map[rpc.Method]rpc.Handler{}}
	b.port = p
	if s := cfg.Seams; s != nil {
		b.net = carrier{s}
		return nil
	}
	p.rpc = rpc.Config{
		Self: func() rpc.Self {
			return rpc.Self{ClusterID: b.clusterName(), UUID: rpc.UUID(b.ident.UUID), Name: b.cfg.NodeID}
		},
		Keys:   func() [][]byte { return p.callKeys() },
		Errors: remoteErrors, Logger: b.cfg.Logger,
		Onward: p.onward,
	}
	var err error
	server := rpc.NewServer(p.rpc, &p.stats, p.handle)
	if p.ln, err = rpc.Listen(cfg.Listen, p.rpc, &p.stats, server.Serve); err != nil {
		return err
	}
	p.gossip, err = gossip.Open(gossip.Config{
		ID: b.ident.UUID.String(), Listen: cfg.Gossip, Advertise: p.gossipAdvertised(), Join: cfg.Join, Tags: p.tags(), Keyring: cfg.Keys, KeyringFile: cfg.KeyFile,
		SnapshotFile: filepath.Join(b.cfg.DataDir, "gossip.snapshot"), Timing: cfg.GossipTiming, Logger: b.cfg.Logger,
	})
	if err != nil {
		return err
	}
	p.layer = p.ln.Quorum(func(addr string) (id rpc.UUID, known bool) {
		name, known := quorum.At(p.gossip, addr)
		u, err := parseUUID(name)
		return rpc.UUID(u), known && err == nil
	})
	p.peers = newPeers(p.rpc, &p.stats, p.address)
	b.net = p.peers
	o.Network, o.Timing = quorumNetwork{p.layer, p}, b.timing.Quorum
	return nil
}

// callKeys are the keys of calls; they follow a rotation of the keyring.
func (p *port) callKeys() [][]byte {
	if p.gossip != nil {
		return quorum.CallKeys(p.gossip.Keys())
	}
	return quorum.CallKeys(p.cfg.Keys)
}

// quorumNetwork is meta.Network.
type quorumNetwork struct {
	*rpc.QuorumLayer
	p *port
}

// Address implements meta.Network.
func (q quorumNetwork) Address(id string) (string, bool) {
	u, err := parseUUID(id)
	if err != nil {
		return "", false
	}
	return q.p.address(u)
}

// address is where a node is: what gossip says, else where it was when it registered.
func (p *port) address(id meta.UUID) (string, bool) {
	if addr, known := quorum.Address(p.gossip, id.String()); known {
		return addr, true
	}
	if n := p.b.raft.Load(); n != nil {
		if k := n.Image().BrokerByUUID(id); k != nil && k.Peer != "" {
			return k.Peer, true
		}
	}
	return "", false
}

// advertised is where others reach this node's calls.
func (p *port) advertised() string {
	if p.ln == nil {
		return p.cfg.Listen
	}
	return p.host(p.ln.Addr().String(), p.cfg.Listen)
}

func (p *port) gossipAdvertised() string {
	if _, port, err := net.SplitHostPort(p.cfg.Gossip); err != nil || port == "0" {
		return "" // what is bound, once it is
	}
	return p.host(p.cfg.Gossip, p.cfg.Gossip)
}

// host is a bound address with the host that others are told.
func (p *port) host(bound, asked string) string {
	host, portText, err := net.SplitHostPort(bound)
	if err != nil {
		return bound
	}
	if p.cfg.Advertise != "" {
		host = p.cfg.Advertise
	} else if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() && p.b.cfg.AdvertiseHost != "" {
		host = p.b.cfg.AdvertiseHost
	}
	return net.JoinHostPort(host, portText)
}

func (p *port) tags() gossip.Tags {
	t := gossip.Tags{
		Cluster: p.b.clusterName(), Name: p.b.cfg.NodeID, Peer: p.advertised(), Kafka: p.cfg.Kafka, MQTT: p.cfg.MQTT, Role: gossip.RoleNode,
		Zone: p.cfg.Zone, Version: p.cfg.Version, Wire: rpc.MaxVersion, Expect: p.cfg.Expect, Quorum: p.b.ident.Confirmed,
	}
	if p.cfg.Witness {
		t.Role = gossip.RoleWitness
	}
	return t
}

// serveNodes begins to take calls, to gossip, and to form or keep the quorum. A port that fails takes the broker with it.
func (b *Broker) serveNodes(ctx context.Context) error {
	p := b.port
	if s := b.seams(); s != nil {
		ctx, p.stop = context.WithCancel(ctx)
		p.running.Go(func() { b.govern(ctx) })
		s.Serve(p.answer)
		return nil
	}
	var err error
	p.keeper, err = quorum.New(quorum.Config{
		ID: b.ident.UUID.String(), Node: b.raft.Load(), Gossip: p.gossip, Ask: p.ask, Cluster: b.clusterName,
		Expect: p.cfg.Expect, Join: len(p.cfg.Join) > 0, Pace: p.cfg.Pace, Logger: b.cfg.Logger,
	})
	if err != nil {
		return err
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx)) // until close has said to the others what there is to say
	run := func(name string, fn func(context.Context) error) {
		p.running.Go(func() {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				b.fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("calls between nodes", p.ln.Run)
	run("gossip", p.gossip.Run)
	run("metadata quorum", func(ctx context.Context) error {
		if err := p.keeper.Form(ctx); err != nil {
			return err
		}
		_ = p.gossip.SetTags(func(t *gossip.Tags) { t.Quorum = true })
		return p.keeper.Run(ctx)
	})
	p.running.Go(func() { b.govern(ctx) })
	return nil
}

// ask is quorum.Ask.
func (p *port) ask(ctx context.Context, m meta.Member) (s quorum.Status, err error) {
	id, err := parseUUID(m.ID)
	if err != nil {
		return s, err
	}
	reply, err := p.peers.call(ctx, id, methodStatus, struct{}{}, nil, &s)
	if err == nil {
		reply.Release()
	}
	return s, err
}

// end ends what may act on the quorum's node.
func (p *port) end() {
	if p.stop != nil {
		p.stop()
	}
}

// close ends everything that openPort and serveNodes began.
func (p *port) close() {
	p.end()
	if p.peers != nil {
		p.peers.close()
	}
	if p.ln != nil {
		_ = p.ln.Close()
	}
	p.running.Wait()
	if p.gossip != nil {
		if err := p.gossip.Close(); err != nil {
			p.b.cfg.Logger.Debug("closing gossip", "error", err)
		}
	}
}

// setCluster is called when it becomes known which cluster this node is part of.
func (b *Broker) setCluster(id string) {
	b.cluster.Store(&id)
	if b.port != nil && b.port.gossip != nil {
		if err := b.port.gossip.SetTags(func(t *gossip.Tags) { t.Cluster, t.Quorum = b.clusterName(), true }); err != nil {
			b.cfg.Logger.Warn("cannot tell the other nodes which cluster this one belongs to", "error", err)
		}
	}
}

// clusterName is what this node's cluster goes by among nodes, "" while it is in none (C3).
func (b *Broker) clusterName() string {
	id := b.cluster.Load()
	if id == nil {
		return ""
	}
	var generation uint32
	if n := b.raft.Load(); n != nil {
		generation = n.Image().Generation
	}
	return quorum.Name(*id, generation)
}

// parseUUID reads what UUID.String writes.
func parseUUID(s string) (u meta.UUID, err error) {
	if len(s) != 2*len(u) {
		return u, fmt.Errorf("node id %.40q: want %d hexadecimal digits", s, 2*len(u))
	}
	for i := range u {
		n, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			return u, fmt.Errorf("node id %.40q: want hexadecimal digits", s)
		}
		u[i] = byte(n)
	}
	return u, nil
}

// PeerAddrs are the addresses at which this node's gossip and calls are really bound; both are empty when it is alone.
func (b *Broker) PeerAddrs() (gossip, calls string) {
	if b.port == nil {
		return "", ""
	}
	return b.port.gossip.Addr(), b.port.ln.Addr().String()
}

// HandleCalls has h answer calls of one of other rooms' methods. It is called before the first of them comes. A call may come twice, as long as its caller
// waits.
func (b *Broker) HandleCalls(m rpc.Method, h rpc.Handler) {
	if b.port == nil {
		return // nobody calls
	}
	b.port.mu.Lock()
	defer b.port.mu.Unlock()
	b.port.rooms[m] = h
}

// CallNode calls another broker, through a third where it is not reached directly: a call of another room may come twice, and late. An error that is an
// rpc.ErrUnreachable leaves open whether it acted.
func (b *Broker) CallNode(ctx context.Context, broker int32, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	k := b.Image().Broker(broker)
	if k == nil {
		return rpc.Reply{}, fmt.Errorf("broker %d: %w", broker, meta.ErrNotFound)
	}
	if !relayed(m) {
		return b.net.call(ctx, k.UUID, m, request, raw, answer)
	}
	return b.reach(ctx, k, m, request, raw, answer)
}

// DialNode opens a stream to another broker, see Streams; through a third where it is not reached directly.
func (b *Broker) DialNode(ctx context.Context, broker int32) (net.Conn, error) {
	k := b.Image().Broker(broker)
	if k == nil || b.port == nil {
		return nil, fmt.Errorf("broker %d: %w", broker, meta.ErrNotFound)
	}
	return b.dialThrough(ctx, k)
}

// dial opens a stream to a node, or one that it passes on to another.
func (b *Broker) dial(ctx context.Context, k *meta.Broker, onward *rpc.UUID) (net.Conn, error) {
	addr, known := b.port.address(k.UUID)
	if !known {
		return nil, errNoAddress
	}
	return rpc.DialStream(ctx, addr, b.port.rpc, rpc.UUID(k.UUID), onward)
}

// onward is rpc.Config.Onward.
func (p *port) onward(ctx context.Context, to rpc.UUID) (net.Conn, error) {
	addr, known := p.address(meta.UUID(to))
	if !known {
		return nil, fmt.Errorf("node %s: %w", to, errNoAddress)
	}
	return rpc.DialStream(ctx, addr, p.rpc, to, nil)
}

// Streams takes the streams that other brokers open to this one; nil when it is alone.
func (b *Broker) Streams() net.Listener {
	if b.port == nil {
		return nil
	}
	return b.port.ln.Streams()
}

// handle answers one call.
func (p *port) handle(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
	b := p.b
	switch r.Method {
	case methodStatus:
		return rpc.Answer{Control: p.keeper.Status()}, nil
	case methodPropose:
		return answer(r, func(c *proposeCall) (any, error) { return b.answerPropose(ctx, c) })
	case methodVersion:
		a, err := b.answerVersion(ctx)
		return rpc.Answer{Control: a}, err
	case methodRenew:
		return answer(r, func(c *renewCall) (any, error) {
			newest, err := b.answerRenew(c)
			return renewAnswer{newest}, err
		})
	}
	select {
	case <-b.registered:
	default: // nothing is known here yet of what it leads
		return rpc.Answer{}, fmt.Errorf("node %s has not registered yet: %w", b.cfg.NodeID, ErrNotLeader)
	}
	switch r.Method {
	case methodFeed:
		var c feedCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		return b.answerFeed(ctx, &c)
	case methodAppend:
		return answer(r, func(c *appendCall) (any, error) { return b.answerAppend(ctx, c, r.Raw), nil })
	case methodRead:
		var c readCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		return b.answerRead(&c)
	case methodEnds:
		return answer(r, func(c *endsCall) (any, error) { return b.answerEnds(c), nil })
	case methodEndTransaction:
		return answer(r, func(c *endTransactionCall) (any, error) { return b.answerEndTransaction(ctx, c, nil), nil })
	case methodRelay:
		var c relayCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		return b.answerRelay(ctx, &c, r.Raw)
	case methodReport:
		return rpc.Answer{Control: b.report()}, nil
	case methodRest:
		return answer(r, func(c *restCall) (any, error) { return struct{}{}, b.answerRest(ctx, c) })
	case methodLogs:
		return answer(r, func(c *logsCall) (any, error) { return b.answerLogs(c), nil })
	}
	p.mu.Lock()
	h := p.rooms[r.Method]
	p.mu.Unlock()
	if h == nil {
		return rpc.Answer{}, fmt.Errorf("method %d: this version of weir does not know it: %w", r.Method, rpc.ErrFrame)
	}
	return h(ctx, r)
}

// answer decodes, acts, and answers without a raw part.
func answer[C any](r *rpc.Request, act func(*C) (any, error)) (rpc.Answer, error) {
	var c C
	if err := rpc.Decode(r.Control, &c); err != nil {
		return rpc.Answer{}, err
	}
	got, err := act(&c)
	if err != nil {
		return rpc.Answer{}, err
	}
	return rpc.Answer{Control: got}, nil
}
