package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/quorum"
	"github.com/weir-io/weir/internal/strictyaml"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
)

// Config is all that a node can be told. Later sources override earlier ones: Defaults, the YAML file, WEIR_*
// variables, flags. Sizes are bytes and may carry a unit in YAML (64MiB), durations are Go's (30s).
type Config struct {
	Node     NodeConfig      `yaml:"node"`
	MQTT     MQTTConfig      `yaml:"mqtt"`
	Kafka    KafkaConfig     `yaml:"kafka"`
	HTTP     HTTPConfig      `yaml:"http"`
	Cluster  ClusterConfig   `yaml:"cluster"`
	TLS      TLSConfig       `yaml:"tls"`
	Auth     AuthConfig      `yaml:"auth"`
	Log      LogConfig       `yaml:"log"`
	Topics   TopicsConfig    `yaml:"topics"`
	Groups   GroupsConfig    `yaml:"groups"`
	Schemas  SchemasConfig   `yaml:"schemas"`
	Routes   []mqtt.Route    `yaml:"routes"`
	Uplinks  []uplink.Config `yaml:"uplinks"`
	Insecure bool            `yaml:"insecure"`
}

// Size is a number of bytes, with a unit where one is written.
type Size = strictyaml.Size

// NodeConfig says who the node is and where it keeps everything.
type NodeConfig struct {
	Site      string `yaml:"site"`      // what the centre calls the place that this cluster is at
	ID        string `yaml:"id"`        // unique and stable; default: the host name
	Data      string `yaml:"data"`      // the data directory, created when absent
	Advertise string `yaml:"advertise"` // host that clients are told; default: from the Kafka listener
}

// MQTTConfig is the device side.
type MQTTConfig struct {
	Listen         string        `yaml:"listen"`     // TCP; "" turns it off
	TLS            string        `yaml:"tls"`        // TLS listener; needs tls.cert and tls.key
	WS             string        `yaml:"ws"`         // WebSocket, path /mqtt
	WSOrigins      []string      `yaml:"ws_origins"` // pages that browsers may come from; empty: those of the server's own host
	AckTimeout     time.Duration `yaml:"ack_timeout"`
	MaxPacket      Size          `yaml:"max_packet"`
	MaxConnections int           `yaml:"max_connections"`
	MaxConnectRate int           `yaml:"max_connect_rate"` // accepted per second; 0: no limit
	MaxSessions    int           `yaml:"max_sessions"`     // that outlive their connection
	MemoryInFlight Size          `yaml:"memory_in_flight"` // input that could not be used yet, all connections together
	ReceiveMaximum int           `yaml:"receive_maximum"`  // unacknowledged QoS 1 and 2 publishes per connection, 1–65535
}

// KafkaConfig is the consumer side.
type KafkaConfig struct {
	Listen         string `yaml:"listen"`
	TLS            string `yaml:"tls"`
	SASL           bool   `yaml:"sasl"` // clients say who they are (SCRAM, PLAIN), and what no rule allows is refused; needs auth.file
	MaxRequest     Size   `yaml:"max_request"`
	MemoryInFlight Size   `yaml:"memory_in_flight"`
	MaxConnections int    `yaml:"max_connections"`
}

// HTTPConfig is the operator's side.
type HTTPConfig struct {
	Listen         string `yaml:"listen"`
	MaxConnections int    `yaml:"max_connections"`
}

// ClusterConfig is how a node meets others.
type ClusterConfig struct {
	Gossip  string   `yaml:"gossip"`  // Serf, TCP and UDP; "" with raft "": the node is alone
	Raft    string   `yaml:"raft"`    // between nodes: metadata quorum, replication, forwarding
	Join    []string `yaml:"join"`    // gossip addresses of peers, tried for ever
	Expect  int      `yaml:"expect"`  // nodes that form the quorum together; default: 1 without join, else none
	Profile string   `yaml:"profile"` // timings: fast, lan, edge
	Zone    string   `yaml:"zone"`    // replicas are spread over zones
	Witness bool     `yaml:"witness"` // votes on metadata and keeps no records
	Keyring string   `yaml:"keyring"` // file of keys: gossip is encrypted, and calls prove that they have them
}

// expect is how many nodes form the quorum with this one, 0 if it only joins.
func (c *ClusterConfig) expect() int {
	if c.Expect == 0 && len(c.Join) == 0 {
		return 1
	}
	return c.Expect
}

// profile is one row of timings.
type profile struct {
	timing control.Timing
	gossip gossip.Timing
	pace   time.Duration
}

var profiles = map[string]profile{
	"fast": {control.FastTiming, gossip.LANTiming, quorum.FastPace},
	"lan":  {control.LANTiming, gossip.LANTiming, quorum.Pace},
	"edge": {control.EdgeTiming, gossip.EdgeTiming, quorum.Pace},
}

// TLSConfig names PEM files; they serve every TLS listener.
type TLSConfig struct {
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	ClientCA string `yaml:"client_ca"` // when set, clients must present a certificate it signed
}

// AuthConfig turns authentication on.
type AuthConfig struct {
	File string `yaml:"file"` // users and rules; once named, what no rule allows is refused
}

// LogConfig tunes durability's cost, never durability itself.
type LogConfig struct {
	JournalFile    Size          `yaml:"journal_file"`     // one of the four journal files
	CommitMaxWait  time.Duration `yaml:"commit_max_wait"`  // longest wait for company before a sync
	SyncsPerSecond int           `yaml:"syncs_per_second"` // of all kinds; above this rate small commits wait, up to commit_max_wait or two intervals of the rate
	DiskQuota      Size          `yaml:"disk_quota"`       // all segments together; 0: the disk's own size is the limit
}

// TopicsConfig is for topics that come to be by themselves.
type TopicsConfig struct {
	AutoCreate bool              `yaml:"auto_create"`
	Partitions int               `yaml:"partitions"`
	Config     map[string]string `yaml:"config"` // Kafka's names: retention.ms and so on
}

// SchemasConfig says where the schemas are that routes name.
type SchemasConfig struct {
	Registry     string        `yaml:"registry"` // its URL; Apicurio's ends in /apis/ccompat/v7
	Username     string        `yaml:"username"`
	PasswordFile string        `yaml:"password_file"`
	CA           string        `yaml:"ca"`      // PEM; default: the system's certificates
	Refresh      time.Duration `yaml:"refresh"` // how often the registry is asked whether there is a newer version
}

// GroupsConfig is for consumer groups of the consumer protocol (KIP-848) that have no configs of their own.
type GroupsConfig struct {
	SessionTimeout    time.Duration `yaml:"session_timeout"`    // a member that is silent for longer is out
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"` // what members are told
}

// Defaults is a node on loopback that needs nothing else.
func Defaults() Config {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "weir"
	}
	return Config{
		Node: NodeConfig{ID: host, Data: "./weir-data"},
		MQTT: MQTTConfig{
			Listen: "127.0.0.1:1883", WS: "127.0.0.1:8083", AckTimeout: 30 * time.Second,
			MaxPacket: 1 << 20, MaxConnections: 20_000, MaxSessions: 100_000, MemoryInFlight: 64 << 20, ReceiveMaximum: 1024,
		},
		Kafka:   KafkaConfig{Listen: "127.0.0.1:9092", MaxRequest: 100 << 20, MemoryInFlight: 128 << 20, MaxConnections: 2000},
		HTTP:    HTTPConfig{Listen: "127.0.0.1:8080", MaxConnections: 256},
		Cluster: ClusterConfig{Gossip: "127.0.0.1:7946", Raft: "127.0.0.1:7947", Profile: "lan"},
		Log:     LogConfig{JournalFile: 64 << 20, CommitMaxWait: 2 * time.Millisecond, SyncsPerSecond: 400},
		Topics:  TopicsConfig{AutoCreate: true, Partitions: 4},
		Schemas: SchemasConfig{Refresh: time.Minute},
		Groups:  GroupsConfig{SessionTimeout: 45 * time.Second, HeartbeatInterval: 3 * time.Second},
	}
}

// loadFile overlays a YAML file on c. Unknown keys are errors: a typo must not become a silent default.
func (c *Config) loadFile(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the configuration: %w; name an existing file with --config", err)
	}
	if err := strictyaml.Decode(text, c); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Validate returns every fault at once, each naming the key as YAML spells it.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Node.ID == "" {
		fault("node.id: must not be empty")
	}
	if c.Node.Data == "" {
		fault("node.data: must name a directory")
	}
	for _, l := range c.listeners() {
		if l.addr == "" {
			continue
		}
		host, port, err := net.SplitHostPort(l.addr)
		if err != nil {
			fault("%s: %q is not host:port", l.key, l.addr)
			continue
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			fault("%s: port %q is not a number from 0 to 65535", l.key, port)
		}
		if !c.Insecure && !isLoopback(host) && !l.authenticated(c) {
			fault("%s: %s can be reached from other machines without authentication: listen on 127.0.0.1, %sor say --insecure", l.key, l.addr, l.remedy)
		}
		if l.tls && (c.TLS.Cert == "" || c.TLS.Key == "") {
			fault("%s: needs tls.cert and tls.key", l.key)
		}
	}
	c.Cluster.validate(fault)
	if c.Kafka.SASL && c.Auth.File == "" {
		fault("kafka.sasl: needs auth.file, with a user who has admin: true")
	}
	if c.MQTT.Listen == "" && c.MQTT.TLS == "" && c.MQTT.WS == "" && c.Kafka.Listen == "" && c.Kafka.TLS == "" {
		fault("mqtt.listen, kafka.listen: at least one listener is needed")
	}
	between := func(key string, v, low, high int64) {
		if v < low || v > high {
			fault("%s: %d is not between %d and %d", key, v, low, high)
		}
	}
	between("mqtt.receive_maximum", int64(c.MQTT.ReceiveMaximum), 1, 65535)
	between("mqtt.max_packet", int64(c.MQTT.MaxPacket), 1<<10, 256<<20)
	between("mqtt.max_connections", int64(c.MQTT.MaxConnections), 1, 1_000_000)
	between("mqtt.max_connect_rate", int64(c.MQTT.MaxConnectRate), 0, 1_000_000)
	between("mqtt.max_sessions", int64(c.MQTT.MaxSessions), 1, 10_000_000)
	between("mqtt.memory_in_flight", int64(c.MQTT.MemoryInFlight), 2*int64(c.MQTT.MaxPacket), 1<<40)
	between("mqtt.ack_timeout", int64(c.MQTT.AckTimeout/time.Millisecond), 100, 3_600_000)
	between("kafka.max_request", int64(c.Kafka.MaxRequest), 1<<10, 1<<30)
	between("kafka.memory_in_flight", int64(c.Kafka.MemoryInFlight), 1<<20, 1<<40)
	between("kafka.max_connections", int64(c.Kafka.MaxConnections), 1, 1_000_000)
	between("http.max_connections", int64(c.HTTP.MaxConnections), 1, 100_000)
	between("log.journal_file", int64(c.Log.JournalFile), 1<<20, 1<<30)
	between("log.commit_max_wait", int64(c.Log.CommitMaxWait), 0, int64(time.Second))
	between("log.syncs_per_second", int64(c.Log.SyncsPerSecond), 1, 1_000_000)
	between("log.disk_quota", int64(c.Log.DiskQuota), 0, 1<<60)
	between("groups.session_timeout", c.Groups.SessionTimeout.Milliseconds(), 6000, 1_800_000)
	between("groups.heartbeat_interval", c.Groups.HeartbeatInterval.Milliseconds(), 100, 60_000)
	if c.Groups.SessionTimeout <= c.Groups.HeartbeatInterval {
		fault("groups.session_timeout: %v is not longer than groups.heartbeat_interval, %v", c.Groups.SessionTimeout, c.Groups.HeartbeatInterval)
	}
	between("topics.partitions", int64(c.Topics.Partitions), 1, 1000)
	for _, o := range c.MQTT.WSOrigins {
		if err := checkOrigin(o); err != nil {
			fault("mqtt.ws_origins: %w", err)
		}
	}
	if _, err := mqtt.NewRouter(c.routes(), nil); err != nil {
		fault("%w", err)
	}
	c.Schemas.validate(fault)
	maxBatch := log.Config{JournalFileBytes: int64(c.Log.JournalFile)}.MaxBatchBytes()
	if err := cluster.ValidateConfigs(c.Topics.Config, maxBatch); err != nil {
		fault("topics.config: %w", err)
	}
	for i, r := range c.Routes {
		if r.Schema != nil && c.Schemas.Registry == "" {
			fault("routes[%d].schema: needs schemas.registry, the URL of a schema registry", i)
		}
		if err := cluster.ValidateConfigs(r.Config, maxBatch); err != nil {
			fault("routes[%d].config: %w", i, err)
		}
	}
	if err := uplink.Check(c.Uplinks, c.Node.Site); err != nil {
		fault("%w", err)
	}
	return errors.Join(faults...)
}

func (c *ClusterConfig) validate(fault func(format string, args ...any)) {
	if _, ok := profiles[c.Profile]; !ok {
		fault("cluster.profile: %q is none of fast, lan, edge", c.Profile)
	}
	if (c.Gossip == "") != (c.Raft == "") {
		fault("cluster.gossip, cluster.raft: give both, or neither for a node that stays alone")
	}
	if c.Gossip == "" && (len(c.Join) > 0 || c.Expect > 1 || c.Witness) {
		fault("cluster.join, cluster.expect, cluster.witness: need cluster.gossip and cluster.raft")
	}
	if c.Expect < 0 || c.Expect > 128 {
		fault("cluster.expect: %d is not between 1 and 128", c.Expect)
	}
	if c.Expect == 1 && len(c.Join) > 0 {
		fault("cluster.expect: 1 makes a cluster of this node alone, and cluster.join names others: leave one of them out")
	}
	for _, a := range c.Join {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			fault("cluster.join: %q is not host:port, as in 10.0.0.2:7946", a)
		}
	}
}

func (c *SchemasConfig) validate(fault func(format string, args ...any)) {
	if u, err := url.Parse(c.Registry); c.Registry != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "") {
		fault("schemas.registry: %q is no URL as in http://127.0.0.1:8081, without user and password", c.Registry)
	}
	if c.Registry == "" && (c.Username != "" || c.PasswordFile != "" || c.CA != "") {
		fault("schemas.registry: missing; the other keys of schemas say how to reach it")
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		fault("schemas.username, schemas.password_file: name both, or neither")
	}
	if c.Refresh < time.Second || c.Refresh > 24*time.Hour {
		fault("schemas.refresh: %v is not between 1s and 24h", c.Refresh)
	}
}

// checkOrigin holds an entry of mqtt.ws_origins to the form that browsers send, since no other can ever match.
func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || origin != u.Scheme+"://"+u.Host {
		return fmt.Errorf("%q is no origin: write http:// or https://, a host and its port if it has one, as in https://console.example:8443, or *", origin)
	}
	if strings.Contains(u.Host, "*") {
		return fmt.Errorf("%q: a part of a host cannot be left open: list each origin, or * for all", origin)
	}
	if u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443" || strings.HasSuffix(u.Host, ":") {
		return fmt.Errorf("%q: browsers leave the scheme's own port out: write %s://%s", origin, u.Scheme, strings.TrimSuffix(u.Host, ":"+u.Port()))
	}
	return nil
}

// routes is what the node routes by: the configured rules, and the contract's default where there are none.
func (c *Config) routes() []mqtt.Route {
	if len(c.Routes) > 0 {
		return c.Routes
	}
	return []mqtt.Route{{Match: "#", Topic: defaultTopic}}
}

// defaultTopic exists on every node that has no routes of its own.
const defaultTopic = "telemetry"

type listener struct {
	key, addr string
	tls, mqtt bool
	kafka     bool
	peers     bool // of other nodes
	remedy    string
}

// authenticated tells whether what listens there asks clients who they are.
func (l listener) authenticated(c *Config) bool {
	return (l.mqtt && c.Auth.File != "") || (l.kafka && c.Kafka.SASL) || (l.tls && c.TLS.ClientCA != "") || (l.peers && c.Cluster.Keyring != "")
}

func (c *Config) listeners() []listener {
	return []listener{
		{key: "mqtt.listen", addr: c.MQTT.Listen, mqtt: true, remedy: "name auth.file, "},
		{key: "mqtt.tls", addr: c.MQTT.TLS, mqtt: true, tls: true, remedy: "name auth.file or tls.client_ca, "},
		{key: "mqtt.ws", addr: c.MQTT.WS, mqtt: true, remedy: "name auth.file, "},
		{key: "kafka.listen", addr: c.Kafka.Listen, kafka: true, remedy: "set kafka.sasl, "},
		{key: "kafka.tls", addr: c.Kafka.TLS, tls: true, kafka: true, remedy: "name tls.client_ca, set kafka.sasl, "},
		{key: "http.listen", addr: c.HTTP.Listen},
		{key: "cluster.gossip", addr: c.Cluster.Gossip, peers: true, remedy: "name cluster.keyring, "},
		{key: "cluster.raft", addr: c.Cluster.Raft, peers: true, remedy: "name cluster.keyring, "},
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// advertised is the host that Kafka clients are told: node.advertise, else the listener's own, else (for a wildcard
// listener) the machine's first private address.
func (c *Config) advertised() (string, error) {
	if c.Node.Advertise != "" {
		if c.Node.Advertise == "0.0.0.0" || c.Node.Advertise == "::" {
			return "", fmt.Errorf("node.advertise: %s is no address that clients can reach: name this host", c.Node.Advertise)
		}
		return c.Node.Advertise, nil
	}
	listen := c.Kafka.Listen
	if listen == "" {
		listen = c.Kafka.TLS
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "127.0.0.1", nil
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return host, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("node.advertise: list this machine's addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsPrivate() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("node.advertise: this machine has no private address to tell clients: name the host they reach it by")
}
