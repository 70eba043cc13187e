package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/schema"
)

// Route is one rule of the `routes:` list: which MQTT topics it takes, the log topic and key their
// records get, and how payloads are checked. Rules are tried in order and the first match wins.
//
//	routes:
//	  - match: plants/+plant/machines/+machine/vibration   # '+name' captures a level
//	    topic: vibration
//	    key: "{plant}/{machine}"  # also {client}, {topic}, {user.NAME}, {payload.FIELD}
//	    decode: cbor              # json | cbor | none: validates, and stores JSON for consumers
//	    schema: {subject: vibration-value, frame: confluent}   # held to it; route_schema.go has the rules
//	    on_error: dead-letter     # reject | dead-letter
//	    timestamp: "{payload.ts}" # the record's timestamp; default is the broker's receive time
//	    timestamp_unit: ms        # s | ms | us | ns, for numbers; RFC 3339 strings need none
//	    partitions: 8             # used only when the topic is created by the first publish
//	    config: {retention.ms: 604800000}
//	  - match: "#"
//	    topic: telemetry
//
// A key made only of {client}, {topic}, captures and literals keeps the order of one client's
// messages on one MQTT topic (M3): they share a partition. {user.NAME} and {payload.FIELD} give that
// up, because two messages on the same topic may then carry different keys.
type Route struct {
	// Match is a topic filter: levels, '+' or '+name' for one level, '#' last for the rest. As in
	// MQTT §4.7.2 a wildcard in the first level does not match topics that begin with '$'.
	Match string `yaml:"match"`
	// Topic is the log topic, a legal Kafka topic name; the same for every message of the route.
	Topic string `yaml:"topic"`
	// Key is the record key's template; default "{client}".
	Key string `yaml:"key,omitempty"`
	// Decode is "none" (default: the value is the payload, untouched), "json" or "cbor", and with a schema of that format "avro".
	Decode string `yaml:"decode,omitempty"`
	// Schema names what payloads are held to, nil for none.
	Schema *schema.Rule `yaml:"schema,omitempty"`
	// OnError is "reject" (default: reason 0x99 to the client) or "dead-letter": the payload as it
	// came goes to "<topic>.dlq" with the reason in headers, and the client gets a success ack.
	OnError string `yaml:"on_error,omitempty"`
	// Timestamp is "" or "{payload.FIELD}"; it needs decode.
	Timestamp     string `yaml:"timestamp,omitempty"`
	TimestampUnit string `yaml:"timestamp_unit,omitempty"`
	// Partitions and Config are the settings that auto-creation gives the topic; 0 and nil leave
	// the node's defaults. Two routes to one topic must not contradict each other.
	Partitions int               `yaml:"partitions,omitempty"`
	Config     map[string]string `yaml:"config,omitempty"`
}

// Header names of a dead letter, beside the usual ones of a publish.
const (
	HeaderDeadLetterReason = "weir.dlq.reason" // why the payload was refused, in words
	HeaderDeadLetterTopic  = "weir.dlq.topic"  // the log topic it was meant for
	HeaderDeadLetterRoute  = "weir.dlq.route"  // the match of the route that refused it
)

// DeadLetterSuffix is appended to a log topic's name to name its dead-letter topic.
const DeadLetterSuffix = ".dlq"

var (
	// ErrNoRoute: no rule takes this MQTT topic. The client is told 0x90, topic name invalid.
	ErrNoRoute = errors.New("no route for this topic")
	// ErrPayload: the route's decode, key or timestamp cannot be had from this message, or it does not fit the route's schema. The client is
	// told 0x99, payload format invalid. The wrapping error says what is wrong.
	ErrPayload = errors.New("payload refused by its route")
	// ErrNoSchema: the schema of the route is not known yet, or the registry is away and never gave it. It is a passing reason: the publish is held.
	ErrNoSchema = errors.New("the route's schema is not known")
)

// PublishInfo is what a route may look at besides the MQTT topic. Match keeps no reference to it
// beyond the RouteResult.
type PublishInfo struct {
	ClientID  []byte
	UserProps []log.Header // MQTT 5 user properties, in order
	Payload   []byte
	Time      int64 // receive time, Unix milliseconds
}

// RouteResult says where a publish goes. Key, Value and Headers are views of the scratch or of the
// PublishInfo: valid until the next Match with that scratch or until the payload's buffer is reused.
type RouteResult struct {
	LogTopic   string
	Route      int // index of the rule, for metrics and caches
	Key        []byte
	Value      []byte
	Timestamp  int64 // Unix milliseconds
	DeadLetter bool  // LogTopic is a dead-letter topic; Headers hold the reason
	Headers    []log.Header
}

// RouteScratch is the memory Match works in. The zero value is ready; one per goroutine.
type RouteScratch struct {
	captures [][2]int // byte ranges of the topic, by capture number
	key      []byte
	value    []byte
	field    []byte
	framed   []byte
	headers  []log.Header
}

// TopicSettings is what auto-creation should give one log topic.
type TopicSettings struct {
	Name       string
	Partitions int // 0 = the node's default
	Configs    map[string]string
}

// Router maps MQTT topics to log topics. It is immutable and safe for concurrent use; a reload
// builds a new one.
type Router struct {
	routes []route
	topics []TopicSettings
	rules  []schema.Rule
}

type route struct {
	levels     []routeLevel
	rest       bool // the match ends in '#'
	captures   int
	key        keyTemplate
	decode     decodeMode
	rule       *schema.Rule // nil: payloads are held to none
	schema     *schema.Subject
	deadLetter bool
	topic, dlq string
	match      string
	timestamp  []string // path in the payload, nil = receive time
	unit       int64    // timestamp units per second
}

type routeLevel struct {
	literal string
	wild    bool
	capture int // -1 = none
}

// NewRouter checks every rule and compiles them. Errors name the rule's index and field, and all
// faults are reported at once. schemas finds what rules name; nil where no publish will come.
func NewRouter(routes []Route, schemas Schemas) (*Router, error) {
	r := &Router{}
	var errs []error
	for i := range routes {
		compiled, faults := compileRoute(&routes[i])
		for _, f := range faults {
			errs = append(errs, fmt.Errorf("routes[%d].%w", i, f))
		}
		r.routes = append(r.routes, compiled)
	}
	if len(errs) == 0 {
		errs = r.collectTopics(routes)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r.bind(schemas)
	return r, nil
}

// Topics lists the settings of every log topic that a rule names, dead-letter topics included, in
// the order of the rules.
func (r *Router) Topics() []TopicSettings { return r.topics }

// Match finds the rule for an MQTT topic and builds the record's topic, key, value and timestamp.
// topic must be a valid topic name (no wildcard, valid UTF-8) with its alias resolved. It allocates
// nothing when the rule needs no decode, and in the steady state nothing with json or cbor either.
// Errors are ErrNoRoute and ErrPayload, both permanent, and ErrNoSchema, which passes.
func (r *Router) Match(topic []byte, s *RouteScratch, in *PublishInfo) (RouteResult, error) {
	for i := range r.routes {
		rt := &r.routes[i]
		if !rt.takes(topic, s) {
			continue
		}
		res := RouteResult{LogTopic: rt.topic, Route: i, Value: in.Payload, Timestamp: in.Time}
		err := rt.fill(&res, topic, s, in)
		if err == nil {
			return res, nil
		}
		if !rt.deadLetter || waits(err) {
			return RouteResult{Route: i}, err
		}
		return rt.dead(i, s, in, err), nil
	}
	return RouteResult{}, ErrNoRoute
}

// takes reports whether the rule matches, and leaves the captures in s.
func (rt *route) takes(topic []byte, s *RouteScratch) bool {
	first := routeLevel{wild: rt.rest}
	if len(rt.levels) > 0 {
		first = rt.levels[0]
	}
	if first.wild && len(topic) > 0 && topic[0] == '$' {
		return false
	}
	if cap(s.captures) < rt.captures {
		s.captures = make([][2]int, rt.captures)
	}
	s.captures = s.captures[:rt.captures]
	at := 0
	for i := range rt.levels {
		if at > len(topic) {
			return false
		}
		end := at
		for end < len(topic) && topic[end] != '/' {
			end++
		}
		l := &rt.levels[i]
		switch {
		case !l.wild:
			if string(topic[at:end]) != l.literal {
				return false
			}
		case l.capture >= 0:
			s.captures[l.capture] = [2]int{at, end}
		}
		at = end + 1
	}
	return rt.rest || at > len(topic)
}

// fill builds value, key and timestamp of a message the rule took.
func (rt *route) fill(res *RouteResult, topic []byte, s *RouteScratch, in *PublishInfo) error {
	version, payload, err := rt.version(in.Payload)
	if err != nil {
		return err
	}
	switch rt.decode {
	case decodeJSON, decodeCBOR:
		value, err := rt.decode.toJSON(s.value[:0], payload)
		if err != nil {
			return err
		}
		if rt.decode == decodeCBOR {
			s.value = value
		}
		res.Value = value
	case decodeAvro:
		if res.Value, err = rt.asJSON(version, s.value[:0], payload); err != nil {
			return err
		}
		s.value = res.Value
	}
	if err := rt.check(version, payload, res.Value); err != nil {
		return err
	}
	key, err := rt.key.render(s, topic, in, res.Value)
	if err != nil {
		return err
	}
	res.Key = key
	if rt.timestamp != nil {
		ts, err := s.payloadTime(res.Value, rt.timestamp, rt.unit)
		if err != nil {
			return err
		}
		res.Timestamp = ts
	}
	if rt.rule != nil && rt.rule.Frame == schema.FrameConfluent {
		s.framed = append(version.AppendFrame(s.framed[:0]), res.Value...)
		res.Value = s.framed
	}
	return nil
}

// dead turns a refused message into a dead letter: payload as it came, keyed by client.
func (rt *route) dead(i int, s *RouteScratch, in *PublishInfo, reason error) RouteResult {
	s.headers = append(s.headers[:0],
		log.Header{Key: []byte(HeaderDeadLetterReason), Value: []byte(reason.Error())},
		log.Header{Key: []byte(HeaderDeadLetterTopic), Value: []byte(rt.topic)},
		log.Header{Key: []byte(HeaderDeadLetterRoute), Value: []byte(rt.match)})
	return RouteResult{
		LogTopic: rt.dlq, Route: i, Key: in.ClientID, Value: in.Payload, Timestamp: in.Time,
		DeadLetter: true, Headers: s.headers,
	}
}

// compileRoute checks one rule; each fault begins with the field's name.
func compileRoute(in *Route) (route, []error) {
	rt := route{topic: in.Topic, dlq: in.Topic + DeadLetterSuffix, match: in.Match}
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(field+": "+format, args...))
	}
	names, err := rt.compileMatch(in.Match)
	if err != nil {
		fault("match", "%w", err)
	}
	if err := checkTopicName(in.Topic); err != nil {
		fault("topic", "%w", err)
	}
	var ok bool
	if rt.decode, ok = decodeModes[in.Decode]; !ok {
		fault("decode", "%q is not one of json, cbor, avro, none", in.Decode)
	}
	rt.compileSchema(in, fault)
	switch in.OnError {
	case "", "reject":
	case "dead-letter":
		rt.deadLetter = true
		if err == nil && len(rt.dlq) > maxTopicName {
			fault("on_error", "%q is too long for a topic name; shorten topic", rt.dlq)
		}
	default:
		fault("on_error", "%q is not one of reject, dead-letter", in.OnError)
	}
	key := in.Key
	if key == "" {
		key = "{client}"
	}
	if rt.key, err = parseKeyTemplate(key, names, rt.decode != decodeNone); err != nil {
		fault("key", "%w", err)
	}
	if rt.timestamp, err = parseTimestamp(in.Timestamp, rt.decode != decodeNone); err != nil {
		fault("timestamp", "%w", err)
	}
	if rt.unit, ok = timestampUnits[in.TimestampUnit]; !ok {
		fault("timestamp_unit", "%q is not one of s, ms, us, ns", in.TimestampUnit)
	}
	if in.Partitions < 0 || in.Partitions > maxPartitions {
		fault("partitions", "%d is not in 1..%d; leave it out for the default", in.Partitions, maxPartitions)
	}
	for k := range in.Config {
		if k == "" {
			fault("config", "empty config name")
		}
	}
	return rt, faults
}

const (
	maxPartitions  = 10_000
	maxTopicName   = 249 // as in Kafka
	maxRouteLevels = 200
)

// compileMatch parses the filter and returns the capture names in order.
func (rt *route) compileMatch(match string) ([]string, error) {
	if match == "" {
		return nil, errors.New("missing; \"#\" takes every topic")
	}
	if !utf8.ValidString(match) || strings.ContainsRune(match, 0) {
		return nil, fmt.Errorf("%q is not valid UTF-8 without NUL", match)
	}
	var names []string
	levels := strings.Split(match, "/")
	if len(levels) > maxRouteLevels {
		return nil, fmt.Errorf("%d levels, at most %d", len(levels), maxRouteLevels)
	}
	for i, l := range levels {
		switch {
		case l == "#":
			if i != len(levels)-1 {
				return nil, fmt.Errorf("%q: '#' must be the last level", match)
			}
			rt.rest = true
		case strings.HasPrefix(l, "+"):
			level := routeLevel{wild: true, capture: -1}
			if name := l[1:]; name != "" {
				if err := checkCapture(name, names); err != nil {
					return nil, err
				}
				level.capture = len(names)
				names = append(names, name)
			}
			rt.levels = append(rt.levels, level)
		case strings.ContainsAny(l, "+#"):
			return nil, fmt.Errorf("%q: a wildcard must stand at the start of its level", l)
		default:
			rt.levels = append(rt.levels, routeLevel{literal: l, capture: -1})
		}
	}
	rt.captures = len(names)
	return names, nil
}

func checkCapture(name string, seen []string) error {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("capture name %q: use letters, digits and '_'", name)
		}
	}
	if name == "client" || name == "topic" {
		return fmt.Errorf("capture name %q is taken by the key template", name)
	}
	for _, s := range seen {
		if s == name {
			return fmt.Errorf("capture name %q is used twice", name)
		}
	}
	return nil
}

func checkTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("missing")
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a topic name", name)
	case len(name) > maxTopicName:
		return fmt.Errorf("%d characters, at most %d", len(name), maxTopicName)
	case strings.HasPrefix(name, "__"):
		return fmt.Errorf("%q: names that begin with __ are internal", name)
	}
	for _, c := range []byte(name) {
		if c != '.' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return fmt.Errorf("%q: use letters, digits, '.', '_' and '-'", name)
		}
	}
	return nil
}

// collectTopics merges the creation settings of rules that share a topic.
func (r *Router) collectTopics(routes []Route) []error {
	var errs []error
	at := map[string]int{}
	add := func(i int, name string, partitions int, configs map[string]string) {
		j, seen := at[name]
		if !seen {
			at[name] = len(r.topics)
			r.topics = append(r.topics, TopicSettings{Name: name, Partitions: partitions, Configs: cloneConfigs(configs)})
			return
		}
		t := &r.topics[j]
		if partitions != 0 && t.Partitions != 0 && partitions != t.Partitions {
			errs = append(errs, fmt.Errorf("routes[%d].partitions: topic %s has %d in an earlier route", i, name, t.Partitions))
		}
		if t.Partitions == 0 {
			t.Partitions = partitions
		}
		for k, v := range configs {
			if old, ok := t.Configs[k]; ok && old != v {
				errs = append(errs, fmt.Errorf("routes[%d].config: topic %s has %s=%s in an earlier route", i, name, k, old))
				continue
			}
			if t.Configs == nil {
				t.Configs = map[string]string{}
			}
			t.Configs[k] = v
		}
	}
	for i := range routes {
		add(i, routes[i].Topic, routes[i].Partitions, routes[i].Config)
		if r.routes[i].deadLetter {
			add(i, r.routes[i].dlq, 0, nil)
		}
	}
	return errs
}

func cloneConfigs(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}
