package uplink

import (
	"errors"
	"fmt"
	"net"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-io/weir/internal/strictyaml"
)

// Config is one entry of `uplinks`. All nodes of a cluster are to have the same.
type Config struct {
	Name      string     `yaml:"name"`
	To        string     `yaml:"to"`          // kafka://host:port,… or mqtt://host:port; kafkas:// and mqtts:// with TLS
	Topics    []string   `yaml:"topics"`      // names or globs; internal topics and dead-letter topics only by name
	Rename    string     `yaml:"rename"`      // of topics at the target: {site}, {cluster}, {topic} [{topic}]; with MQTT also {key} and {mqtt.topic} [{mqtt.topic}]
	Guarantee string     `yaml:"guarantee"`   // exactly_once [default], or at_least_once, which is all that MQTT can do
	Lanes     []Lane     `yaml:"lanes"`       // the first that names a topic decides; others come last
	Limits    Limits     `yaml:"limits"`      // of the link
	OnFull    string     `yaml:"on_full"`     // when this node's quota is used up and the centre is away: reject [default] producers, drop-oldest, or thin
	Partition string     `yaml:"partition"`   // at the target: by key, as Kafka's clients choose it [default], or the same as here
	Compress  string     `yaml:"compression"` // none, gzip, snappy, lz4, zstd [default]
	Shards    int        `yaml:"shards"`      // 1 [default] to 8, each owned by one node at a time
	Create    *bool      `yaml:"create_topics"`
	TLS       TLSConfig  `yaml:"tls"`
	SASL      SASLConfig `yaml:"sasl"`
	Down      []Down     `yaml:"down"`  // what flows from the target to here
	Links     []Link     `yaml:"links"` // classes of links, the most careful last
	LinkProbe LinkProbe  `yaml:"link_probe"`
	to        []string   // host:port
	secure    bool       // TLS
}

// Lane is a class of topics.
type Lane struct {
	Topics   []string `yaml:"topics"`
	Priority int      `yaml:"priority"` // 0 goes first, up to 9
	Order    string   `yaml:"order"`    // strict [default], or live_first: after an outage what is new goes before what is old
	Filter   string   `yaml:"filter"`   // a condition: what it is false for is left out [none]
	Fields   []string `yaml:"fields"`   // of payloads only these are carried [all]
	Thin     *Thin    `yaml:"thin"`     // what of old records is left out [nothing]
}

// Limits are of an uplink as a whole. A zero is no limit.
type Limits struct {
	Rate    Rate            `yaml:"rate"`    // of the bytes on the wire, without TLS and TCP
	Daily   strictyaml.Size `yaml:"daily"`   // per local day
	Windows []Window        `yaml:"windows"` // local times of day in which something may be sent
}

// TLSConfig is how the target is recognised, and how it recognises this cluster. PEM files.
type TLSConfig struct {
	CA   string `yaml:"ca"` // default: the system's
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// SASLConfig is who this cluster is to the target. With MQTT it is the user name and password of CONNECT.
type SASLConfig struct {
	Mechanism    string `yaml:"mechanism"` // PLAIN, SCRAM-SHA-256 [default], SCRAM-SHA-512; none with MQTT
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
}

// Guarantees and other words of the configuration.
const (
	ExactlyOnce    = "exactly_once"
	AtLeastOnce    = "at_least_once"
	orderStrict    = "strict"
	orderLiveFirst = "live_first"
	onFullReject   = "reject"
	onFullDrop     = "drop-oldest"
	onFullThin     = "thin"
	partitionByKey = "key"
	partitionSame  = "same"
	lastPriority   = 9
	maxUplinks     = 32
	maxShards      = 8
)

// dlqSuffix ends the name of a dead-letter topic.
const dlqSuffix = ".dlq"

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// Check fills in defaults and returns every fault of all uplinks at once, each naming its key as the file spells it.
func Check(all []Config, site string) error {
	var faults []error
	if len(all) > maxUplinks {
		faults = append(faults, fmt.Errorf("uplinks: %d of them, at most %d", len(all), maxUplinks))
	}
	for i := range all {
		c := &all[i]
		fault := func(key, format string, args ...any) {
			faults = append(faults, fmt.Errorf("uplinks[%d].%s: %w", i, key, fmt.Errorf(format, args...)))
		}
		c.defaults()
		c.check(fault, site)
		if slices.ContainsFunc(all[:i], func(o Config) bool { return o.Name == c.Name }) {
			fault("name", "%q is taken", c.Name)
		}
	}
	return errors.Join(faults...)
}

func (c *Config) defaults() {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.OnFull, onFullReject)
	for i := range c.Lanes {
		set(&c.Lanes[i].Order, orderStrict)
	}
	for i := range c.Down {
		c.Down[i].defaults(c.isMQTT())
	}
	c.linkDefaults()
	c.Shards = max(c.Shards, 1)
	if c.isMQTT() {
		set(&c.Rename, "{mqtt.topic}")
		set(&c.Guarantee, AtLeastOnce)
		return
	}
	set(&c.Rename, "{topic}")
	set(&c.Guarantee, ExactlyOnce)
	set(&c.Partition, partitionByKey)
	set(&c.Compress, "zstd")
	if c.SASL.User != "" {
		set(&c.SASL.Mechanism, scram256)
	}
	if c.Create == nil {
		yes := true
		c.Create = &yes
	}
}

func (c *Config) check(fault func(key, format string, args ...any), site string) {
	oneOf := func(key, v string, words ...string) {
		if !slices.Contains(words, v) {
			fault(key, "%q is none of %s", v, strings.Join(words, ", "))
		}
	}
	if !nameForm.MatchString(c.Name) {
		fault("name", "%q: want 1 to 64 letters, digits, dots, dashes or underscores", c.Name)
	}
	if err := c.parseTo(); err != nil {
		fault("to", "%w", err)
	}
	if len(c.Topics) == 0 && len(c.Down) == 0 {
		fault("topics", "name at least one topic, or \"*\" for all")
	}
	c.checkDown(fault, site)
	globs := func(key string, all []string) {
		for _, g := range all {
			if _, err := path.Match(g, ""); err != nil || g == "" {
				fault(key, "%q is no name and no glob", g)
			}
		}
	}
	globs("topics", c.Topics)
	for i, l := range c.Lanes {
		key := fmt.Sprintf("lanes[%d]", i)
		globs(key+".topics", l.Topics)
		oneOf(key+".order", l.Order, orderStrict, orderLiveFirst)
		if l.Priority < 0 || l.Priority > lastPriority {
			fault(key+".priority", "%d is not between 0 and %d", l.Priority, lastPriority)
		}
		l.check(key, c.isMQTT(), fault)
	}
	oneOf("guarantee", c.Guarantee, ExactlyOnce, AtLeastOnce)
	oneOf("on_full", c.OnFull, onFullReject, onFullDrop, onFullThin)
	c.checkThinning(fault)
	if c.isMQTT() {
		c.checkMQTT(fault, site)
	} else {
		if err := checkRename(c.Rename, site, "{topic}"); err != nil {
			fault("rename", "%w", err)
		}
		oneOf("partition", c.Partition, partitionByKey, partitionSame)
		oneOf("compression", c.Compress, "none", "gzip", "snappy", "lz4", "zstd")
		if c.SASL != (SASLConfig{}) {
			oneOf("sasl.mechanism", c.SASL.Mechanism, "PLAIN", scram256, scram512)
		}
	}
	if c.Shards > maxShards {
		fault("shards", "%d is not between 1 and %d", c.Shards, maxShards)
	}
	checkRate(fault, "limits.rate", c.Limits.Rate)
	c.checkLinks(fault)
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		fault("tls", "name cert and key both, or neither")
	}
	if c.TLS != (TLSConfig{}) && !c.secure {
		fault("tls", "is of no use with %q: write kafkas:// or mqtts://", c.To)
	}
	if c.SASL != (SASLConfig{}) && (c.SASL.User == "" || c.SASL.PasswordFile == "") {
		fault("sasl", "name user and password_file")
	}
}

// checkMQTT is about what a broker of MQTT can do less, or otherwise.
func (c *Config) checkMQTT(fault func(key, format string, args ...any), site string) {
	if c.Guarantee == ExactlyOnce {
		fault("guarantee", "an MQTT broker keeps no cursors, so that nobody can know after a crash what it has: write at_least_once, and tell repeats by the user property %s", OriginHeader)
	}
	if err := checkRename(c.Rename, site, "{topic}", "{mqtt.topic}", "{key}"); err != nil {
		fault("rename", "%w", err)
	}
	for _, k := range []struct {
		name  string
		given bool
	}{{"partition", c.Partition != ""}, {"compression", c.Compress != ""}, {"create_topics", c.Create != nil}, {"sasl.mechanism", c.SASL.Mechanism != ""}} {
		if k.given {
			fault(k.name, "MQTT has none: leave it out")
		}
	}
}

// checkDown is about what flows the other way.
func (c *Config) checkDown(fault func(key, format string, args ...any), site string) {
	if len(c.Down) > maxDowns {
		fault("down", "%d of them, at most %d", len(c.Down), maxDowns)
	}
	for i, d := range c.Down {
		key := fmt.Sprintf("down[%d].", i)
		if c.isMQTT() {
			if f := filterFault(d.From); f != "" {
				fault(key+"from", "%q is no topic filter: %s", d.From, f)
			}
			if d.Start != "" {
				fault(key+"start", "MQTT has none: an existing session says where to go on, and a new one gets what is retained")
			}
		} else {
			if !topicForm.MatchString(d.From) {
				fault(key+"from", "%q is no topic's name", d.From)
			}
			if d.Start != startEnd && d.Start != startBeginning {
				fault(key+"start", "%q is none of %s, %s", d.Start, startEnd, startBeginning)
			}
		}
		if !topicForm.MatchString(d.Topic) || strings.HasPrefix(d.Topic, "__") {
			fault(key+"topic", "%q is no topic's name that records may be written to", d.Topic)
		}
		if err := checkPlaceholders(d.To, site, "{mqtt.topic}", "{topic}", "{key}"); err != nil {
			fault(key+"to", "%w", err)
		}
		if slices.ContainsFunc(c.Down[:i], func(o Down) bool { return o.From == d.From }) {
			fault(key+"from", "%q comes down already", d.From)
		}
	}
}

// topicForm is what Kafka takes as a topic's name.
var topicForm = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// parseTo reads the address of the target.
func (c *Config) parseTo() error {
	scheme, hosts, _ := strings.Cut(c.To, "://")
	c.secure = scheme == "kafkas" || scheme == "mqtts"
	if !c.secure && scheme != "kafka" && scheme != "mqtt" {
		return fmt.Errorf("%q: want kafka://host:port, several separated by commas, or mqtt://host:port; kafkas:// and mqtts:// with TLS", c.To)
	}
	c.to = nil
	for _, h := range strings.Split(hosts, ",") {
		host, port, err := net.SplitHostPort(strings.TrimSpace(h))
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%q is not host:port", h)
		}
		c.to = append(c.to, strings.TrimSpace(h))
	}
	if c.isMQTT() && len(c.to) > 1 {
		return fmt.Errorf("%q: an MQTT broker has one address", c.To)
	}
	return nil
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// checkRename wants one of the placeholders that tell topics apart, and no others than those and {site} and {cluster}.
func checkRename(template, site string, apart ...string) error {
	if err := checkPlaceholders(template, site, apart...); err != nil {
		return err
	}
	if !slices.ContainsFunc(apart, func(p string) bool { return strings.Contains(template, p) }) {
		return fmt.Errorf("%q: without %s all topics would become one", template, strings.Join(apart, " or "))
	}
	return nil
}

func checkPlaceholders(template, site string, own ...string) error {
	for _, p := range placeholder.FindAllString(template, -1) {
		switch {
		case p == "{site}" && site == "":
			return errors.New("{site} needs node.site")
		case p != "{site}" && p != "{cluster}" && !slices.Contains(own, p):
			return fmt.Errorf("%s is none of %s, {site}, {cluster}", p, strings.Join(own, ", "))
		}
	}
	return nil
}

// Carries says whether records of a topic are to be carried. A dead-letter topic must be named, or what cannot be carried would be tried again for ever;
// and so must the cursors that other clusters keep here, which would stand among the target's own.
func (c *Config) Carries(topic string) bool {
	return slices.ContainsFunc(c.Topics, func(g string) bool {
		if g == topic {
			return true
		}
		ok, _ := path.Match(g, topic)
		return ok && !strings.HasSuffix(topic, dlqSuffix) && topic != ProgressTopic
	})
}

// Same says whether nothing differs.
func (c *Config) Same(o *Config) bool { return reflect.DeepEqual(c, o) }

// Yields says whether records that are not carried yet may be deleted when this node needs the room.
func (c *Config) Yields() bool { return c.OnFull == onFullDrop || c.OnFull == onFullThin }

// Rate is bytes per second. YAML writes it in bits or bytes: 500kbit, 1mbit, 64KiB.
type Rate int64

const minRate = Rate(1 << 10)

var rateUnits = []struct {
	suffix string
	bits   float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

// UnmarshalText parses a rate.
func (r *Rate) UnmarshalText(text []byte) error {
	in := strings.ToLower(strings.TrimSpace(string(text)))
	for _, u := range rateUnits {
		if digits, ok := strings.CutSuffix(in, u.suffix); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
			if err != nil || n <= 0 || n*u.bits > 1e15 {
				return fmt.Errorf("%q is not a rate: write 500kbit, 1mbit, or bytes per second as 64KiB", in)
			}
			*r = Rate(n * u.bits / 8)
			return nil
		}
	}
	var s strictyaml.Size
	if err := s.UnmarshalText([]byte(strings.TrimSuffix(string(text), "/s"))); err != nil {
		return fmt.Errorf("%q is not a rate: write 500kbit, 1mbit, or bytes per second as 64KiB", in)
	}
	*r = Rate(s)
	return nil
}

// String gives the rate in bits, as links are sold.
func (r Rate) String() string {
	for _, u := range rateUnits {
		if bits := float64(r) * 8; bits >= u.bits {
			return strconv.FormatFloat(bits/u.bits, 'g', 4, 64) + u.suffix
		}
	}
	return "0bit"
}

// Window is a span of local time of day, half open; it may go over midnight.
type Window struct{ from, to time.Duration }

// UnmarshalText parses "22:00-06:00".
func (w *Window) UnmarshalText(text []byte) error {
	from, to, ok := strings.Cut(string(text), "-")
	a, err := clock(from)
	b, errTo := clock(to)
	if !ok || err != nil || errTo != nil || a == b {
		return fmt.Errorf("%q is no window: write two times of day, as in 22:00-06:00", text)
	}
	w.from, w.to = a, b
	return nil
}

// MarshalText is what UnmarshalText reads.
func (w Window) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%02d:%02d-%02d:%02d", int(w.from.Hours()), int(w.from.Minutes())%60, int(w.to.Hours()), int(w.to.Minutes())%60), nil
}

func clock(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", strings.TrimSpace(s))
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}

// nextWindow is now inside a window, else when the next one begins.
func (l *Limits) nextWindow(now time.Time) time.Time {
	var next time.Time
	for _, w := range l.Windows {
		at := func(day int, d time.Duration) time.Time {
			return time.Date(now.Year(), now.Month(), now.Day()+day, int(d.Hours()), int(d.Minutes())%60, 0, 0, now.Location())
		}
		for day := -1; day <= 1; day++ {
			from, to := at(day, w.from), at(day, w.to)
			if w.to < w.from {
				to = at(day+1, w.to)
			}
			if !now.Before(from) && now.Before(to) {
				return now
			}
			if from.After(now) && (next.IsZero() || from.Before(next)) {
				next = from
			}
		}
	}
	if next.IsZero() {
		return now
	}
	return next
}

const (
	scram256 = "SCRAM-SHA-256"
	scram512 = "SCRAM-SHA-512"
)
