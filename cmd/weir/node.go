package main

import (
	"context"
	"crypto/tls"
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

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/schema/registry"
)

// node is one running broker. Rooms are opened from the disk outwards (cluster, which opens the log; MQTT; Kafka; HTTP)
// and stopped in reverse, so that nobody is let in before what he needs is there, and nobody loses it before he is gone.
type node struct {
	cfg    Config
	logger *slog.Logger

	broker  *cluster.Broker
	mqtt    *mqtt.Server
	kafka   *kafka.Server
	http    *httpServer
	owners  *owners            // nil when the node is alone
	schemas *registry.Registry // nil when no registry is named
	uplinks *uplinks
	rights  *authority

	routing      atomic.Pointer[routing] // in force; replaced by reload
	reloadMu     sync.Mutex              // one reload at a time
	reloadConfig func() (Config, error)  // nil: there is no file to read again
}

// routing is a set of rules as configured and as compiled.
type routing struct {
	routes []mqtt.Route
	router *mqtt.Router
}

// newRouting compiles rules. Those that name a schema need the registry that the node was started with.
func (n *node) newRouting(routes []mqtt.Route) (*routing, error) {
	if n.schemas == nil {
		for i, r := range routes {
			if r.Schema != nil {
				return nil, fmt.Errorf("routes[%d].schema: the node was started without schemas.registry, which waits for a restart", i)
			}
		}
		router, err := mqtt.NewRouter(routes, nil)
		return &routing{routes, router}, err
	}
	router, err := mqtt.NewRouter(routes, n.schemas)
	return &routing{routes, router}, err
}

// openNode opens every room. When it returns without an error all listeners are bound, and run must be called, which
// also closes everything. On an error everything is closed again.
func openNode(ctx context.Context, cfg Config, logger *slog.Logger) (*node, error) {
	return openNodeOn(ctx, cfg, vfs.OS{}, logger)
}

// openNodeOn is openNode on another file system, which tests take the power from.
func openNodeOn(ctx context.Context, cfg Config, disk vfs.FS, logger *slog.Logger) (_ *node, err error) {
	n := &node{cfg: cfg, logger: logger}
	n.uplinks = newUplinks(n)
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	host, err := cfg.advertised()
	if err != nil {
		return nil, usageError{err}
	}
	files, err := cfg.openFiles()
	if err != nil {
		return nil, usageError{err}
	}
	tlsConf := files.tls
	n.openSchemas(files)
	rules, err := n.newRouting(cfg.routes())
	if err != nil {
		return nil, usageError{err}
	}
	n.routing.Store(rules)
	peer, err := n.peerConfig()
	if err != nil {
		return nil, usageError{err}
	}
	if n.broker, err = cluster.Open(ctx, cluster.Config{
		Peer:    peer,
		NodeID:  cfg.Node.ID,
		DataDir: cfg.Node.Data,
		FS:      disk,
		Log: log.Config{
			JournalFileBytes: int64(cfg.Log.JournalFile),
			CommitMaxWait:    cfg.Log.CommitMaxWait,
			SyncsPerSecond:   cfg.Log.SyncsPerSecond,
			DiskQuota:        int64(cfg.Log.DiskQuota),
			Hold:             n.uplinks.hold,
			Thin:             n.uplinks.thin,
		},
		AdvertiseHost:     host,
		KafkaPort:         portOf(cfg.Kafka.Listen),
		KafkaTLSPort:      portOf(cfg.Kafka.TLS),
		DefaultPartitions: cfg.Topics.Partitions,
		DefaultConfigs:    cfg.Topics.Config,
		Logger:            logger.With("room", "cluster"),
	}); err != nil {
		return nil, err
	}
	if err := n.createTopics(ctx); err != nil {
		return nil, err
	}
	n.rights = newAuthority(files.auth, cfg.Auth.File, n.broker.Image, func() *mqtt.Router { return n.routing.Load().router })
	if err := n.openMQTT(ctx, tlsConf); err != nil {
		return nil, err
	}
	n.uplinks.handle()
	if err := n.openKafka(host, tlsConf); err != nil {
		return nil, err
	}
	n.broker.OnHang(func(hangs bool) { // E9
		n.mqtt.TurnAway(hangs)
		n.kafka.TurnAway(hangs)
	})
	n.http, err = newHTTPServer(n, cfg.HTTP.Listen)
	return n, err
}

// peerConfig is how the node meets others, nil when it stays alone.
func (n *node) peerConfig() (*cluster.PeerConfig, error) {
	c := &n.cfg.Cluster
	if c.Gossip == "" {
		return nil, nil
	}
	keys, err := gossip.ReadKeyring(c.Keyring)
	if err != nil {
		return nil, fmt.Errorf("cluster.keyring: %w", err)
	}
	p := profiles[c.Profile]
	return &cluster.PeerConfig{
		Listen: c.Raft, Gossip: c.Gossip, Join: c.Join, Expect: c.expect(), Advertise: n.cfg.Node.Advertise,
		Timing: p.timing, GossipTiming: p.gossip, Pace: p.pace, Zone: c.Zone, Witness: c.Witness, Keys: keys, KeyFile: c.Keyring,
		Version: version, Kafka: n.cfg.Kafka.Listen, MQTT: n.cfg.MQTT.Listen,
	}, nil
}

// bound is a listener in the order in which its room was given it, so that its address can be told.
type bound struct {
	name, addr string
	tls        *tls.Config
}

func wanted(all ...bound) []bound {
	return slices.DeleteFunc(all, func(b bound) bool { return b.addr == "" })
}

func (n *node) mqttListeners(tlsConf *tls.Config) []bound {
	return wanted(bound{"mqtt", n.cfg.MQTT.Listen, nil}, bound{"mqtt-tls", n.cfg.MQTT.TLS, tlsConf}, bound{"mqtt-ws", n.cfg.MQTT.WS, nil})
}

func (n *node) kafkaListeners(tlsConf *tls.Config) []bound {
	return wanted(bound{"kafka", n.cfg.Kafka.Listen, nil}, bound{"kafka-tls", n.cfg.Kafka.TLS, tlsConf})
}

// createTopics makes the topics that the routes name outright; those that exist keep their settings.
func (n *node) createTopics(ctx context.Context) error {
	for _, r := range n.routing.Load().router.Topics() {
		if _, err := n.broker.CreateTopic(ctx, n.topicSpec(r.Name), false); err != nil && !errors.Is(err, cluster.ErrTopicExists) {
			return fmt.Errorf("create topic %s: %w", r.Name, err)
		}
	}
	return nil
}

// topicSpec is how a topic is made that a route names: by the route's own settings, else by the node's defaults.
func (n *node) topicSpec(name string) cluster.TopicSpec {
	spec := cluster.TopicSpec{Name: name, Partitions: n.cfg.Topics.Partitions}
	for _, t := range n.routing.Load().router.Topics() {
		if t.Name != name {
			continue
		}
		if t.Partitions > 0 {
			spec.Partitions = t.Partitions
		}
		if len(t.Configs) > 0 {
			spec.Configs = t.Configs
		}
	}
	return spec
}

// openSchemas prepares to ask the registry, where one is named.
func (n *node) openSchemas(files configFiles) {
	c := &n.cfg.Schemas
	if c.Registry == "" {
		return
	}
	n.schemas = registry.New(registry.Config{
		URL: c.Registry, Username: c.Username, Password: files.registryPassword, Roots: files.registryRoots, Refresh: c.Refresh, Logger: n.logger.With("room", "mqtt"),
	})
}

func (n *node) openMQTT(ctx context.Context, tlsConf *tls.Config) error {
	sessions, err := openTable(ctx, n.broker, "__mqtt_sessions")
	if err != nil {
		return err
	}
	retained, err := openTable(ctx, n.broker, "__mqtt_retained")
	if err != nil {
		return err
	}
	var listeners []mqtt.Listener
	for _, b := range n.mqttListeners(tlsConf) {
		listeners = append(listeners, mqtt.Listener{
			Addr: b.addr, TLS: b.tls, WebSocket: b.name == "mqtt-ws", Origins: n.cfg.MQTT.WSOrigins,
		})
	}
	n.mqtt, err = mqtt.NewServer(mqtt.Config{
		Listeners:      listeners,
		Sink:           sink{n.broker, n.topicSpec, sessions.t.ID()},
		Source:         source{n.broker},
		Sessions:       sessions,
		Retained:       n.retained(retained),
		Owners:         n.ownersOf(sessions),
		Router:         n.routing.Load().router,
		Auth:           n.rights,
		Quota:          quota{n},
		AckTimeout:     n.cfg.MQTT.AckTimeout,
		Isolated:       func() bool { return !n.broker.HoldsLease() },
		MaxPacket:      int(n.cfg.MQTT.MaxPacket),
		MaxConnections: n.cfg.MQTT.MaxConnections,
		MaxConnectRate: n.cfg.MQTT.MaxConnectRate,
		MaxSessions:    n.cfg.MQTT.MaxSessions,
		MemoryInFlight: int64(n.cfg.MQTT.MemoryInFlight),
		ReceiveMaximum: n.cfg.MQTT.ReceiveMaximum,
		Logger:         n.logger.With("room", "mqtt"),
	})
	if n.owners != nil {
		n.owners.server = n.mqtt
		n.owners.handle()
		n.broker.OnRest(sessions.t.ID(), func(ctx context.Context, partition int32) { n.mqtt.Rest(ctx, int(partition)) })
	}
	sessions.starting, retained.starting = nil, nil // what is read while the node drains is still wanted
	if err == nil {
		n.broker.OnRoom(n.mqtt.Retry)
	}
	return err
}

// retained is the table of retained messages as this node follows it.
func (n *node) retained(t *stateTable) deliver.Followed {
	if n.cfg.Cluster.Gossip == "" {
		return deliver.Alone(wholeTable{t})
	}
	return newFollowed(n.broker, t)
}

// ownersOf is who owns which sessions; nil where all are this node's.
func (n *node) ownersOf(t *stateTable) mqtt.Owners {
	if n.cfg.Cluster.Gossip == "" {
		return nil
	}
	n.owners = &owners{broker: n.broker, table: t.t}
	t.owned = true
	return n.owners
}

func (n *node) openKafka(host string, tlsConf *tls.Config) (err error) {
	var listeners []kafka.Listener
	for _, b := range n.kafkaListeners(tlsConf) {
		listeners = append(listeners, kafka.Listener{Addr: b.addr, TLS: b.tls, Advertise: host})
	}
	var auth kafka.Authenticator
	if n.cfg.Kafka.SASL {
		auth = n.rights
	}
	n.kafka, err = kafka.NewServer(kafka.Config{
		Auth:             auth,
		Given:            n.rights,
		CheckRule:        checkRule,
		Broker:           n.broker,
		Listeners:        listeners,
		MaxRequestBytes:  int(n.cfg.Kafka.MaxRequest),
		MemoryInFlight:   int64(n.cfg.Kafka.MemoryInFlight),
		MaxConnections:   n.cfg.Kafka.MaxConnections,
		AutoCreateTopics: n.cfg.Topics.AutoCreate,
		Groups:           kafka.GroupConfig{Config: group.Config{ConsumerSession: n.cfg.Groups.SessionTimeout, ConsumerHeartbeat: n.cfg.Groups.HeartbeatInterval}},
		Operate:          n.operate,
		OperateReads:     []string{opStatus},
		Logger:           n.logger.With("room", "kafka"),
	})
	return err
}

// run serves until ctx ends or a room fails, then drains and closes everything.
func (n *node) run(stop context.Context) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	var rooms sync.WaitGroup
	start := func(name string, run func(context.Context) error) {
		rooms.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("mqtt", n.mqtt.Run)
	if n.schemas != nil {
		start("schemas", n.schemas.Run)
	}
	if n.owners != nil {
		start("connections passed on", n.owners.passed)
	}
	start("rules", n.watchRules)
	start("kafka", n.kafka.Run)
	start("uplinks", n.uplinks.run)
	start("http", n.http.run)
	start("memory", new(trimmer).run)
	select {
	case <-stop.Done():
		n.handOver()
		cancel(nil)
	case <-ctx.Done():
	case <-n.broker.Failed(): // A6: storage is gone; no drain can make anything durable any more
		cancel(n.broker.Err())
	}
	rooms.Wait()
	err := n.broker.Close(context.WithoutCancel(ctx))
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil {
		n.logger.Info("stopped cleanly")
	}
	return err
}

// leaveWithin bounds how long a node that stops waits until its clients are told; what is left then ends with the rooms.
const leaveWithin = 5 * time.Second

// handOver has others take over what they can while all rooms still serve (E8): clients of other nodes notice no more of it than of a drain, and those of this
// one are told to go on elsewhere.
func (n *node) handOver() {
	n.mqtt.Shut()
	n.broker.HandOver()
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	if err := n.mqtt.Leave(ctx); err != nil {
		n.logger.Warn("stopping without a word to all clients", "within", leaveWithin, "error", err)
	}
}

// abandon closes what openNode got before it met an error. A room's Run with an ended context only unbinds.
func (n *node) abandon() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if n.kafka != nil {
		_ = n.kafka.Run(ended)
	}
	if n.mqtt != nil {
		_ = n.mqtt.Run(ended)
	}
	if n.broker != nil {
		_ = n.broker.Close(ended)
	}
}

// reload puts the file's routes and uplinks in force; a bad file changes nothing.
func (n *node) reload() error {
	n.reloadMu.Lock()
	defer n.reloadMu.Unlock()
	if n.reloadConfig == nil {
		return errors.New("this node has no configuration file to reload: start it with --config FILE")
	}
	cfg, err := n.reloadConfig()
	if err != nil {
		return fmt.Errorf("%w; nothing changed: correct the file and reload again", err)
	}
	rules, err := n.newRouting(cfg.routes())
	if err != nil {
		return fmt.Errorf("%w; nothing changed: correct the file and reload again", err)
	}
	if err := n.uplinks.resharded(cfg.Uplinks); err != nil {
		return fmt.Errorf("%w; nothing changed", err)
	}
	n.routing.Store(rules)
	n.mqtt.ReloadRoutes(rules.router)
	if n.schemas != nil {
		n.schemas.Retain(rules.router.SchemaRules())
	}
	n.mqtt.Recheck() // subscriptions may lead to other log topics now, with other rules
	n.uplinks.reload(cfg.Uplinks)
	n.logger.Info("routes and uplinks reloaded", "routes", len(cfg.routes()), "uplinks", len(cfg.Uplinks))
	return nil
}

// readyLine is what scripts wait for: one line, `weir ready`, with the addresses that really are bound.
func (n *node) readyLine() string {
	var b strings.Builder
	b.WriteString("weir ready")
	for _, a := range n.addrs() {
		fmt.Fprintf(&b, " %s=%s", a.name, a.addr)
	}
	if gossip, calls := n.broker.PeerAddrs(); gossip != "" {
		fmt.Fprintf(&b, " gossip=%s raft=%s", gossip, calls)
	}
	fmt.Fprintf(&b, " data=%s", n.cfg.Node.Data)
	return b.String()
}

type boundAddr struct {
	name string
	addr net.Addr
}

// addrs lists every listener with the address that it really has.
func (n *node) addrs() []boundAddr {
	var all []boundAddr
	add := func(listeners []bound, addrs []net.Addr) {
		for i, b := range listeners {
			all = append(all, boundAddr{b.name, addrs[i]})
		}
	}
	add(n.mqttListeners(nil), n.mqtt.Addrs())
	add(n.kafkaListeners(nil), n.kafka.Addrs())
	if a := n.http.addr(); a != nil {
		all = append(all, boundAddr{"http", a})
	}
	return all
}

// addrOf is the address of one listener by its flag's name, "" when it is off.
func (n *node) addrOf(name string) string {
	for _, a := range n.addrs() {
		if a.name == name {
			return a.addr.String()
		}
	}
	return ""
}

func portOf(addr string) int32 {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(port, 10, 16) // Validate has seen it
	return int32(n)
}
