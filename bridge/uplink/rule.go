package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/weir-io/weir/internal/payload"
	"github.com/weir-io/weir/log"
)

// What a lane leaves out on purpose: records by its filter, members of payloads by its fields, and of an old backlog most by thinning (U10). Rules are pure but for what
// `thin.every` has counted so far.

// Thin is what of a lane's old records is left out. One of LastOver, MeanOver and Every says how.
type Thin struct {
	After    time.Duration `yaml:"after"`     // records older than this, by their timestamps; what is younger is not touched
	LastOver time.Duration `yaml:"last_over"` // of each key the last record of each such interval is carried
	MeanOver time.Duration `yaml:"mean_over"` // of each key one record for each such interval: mean, least and greatest of every number
	Every    int           `yaml:"every"`     // of each key the first, and then each so many-th
}

const (
	maxFilter   = 4 << 10
	maxFields   = 64
	minInterval = time.Second
	maxInterval = 24 * time.Hour
	maxEvery    = 1_000_000
)

// fieldForm is what a field may be called: names stand in a header behind one another, and in JSON without escapes; plainText says the rest.
var fieldForm = regexp.MustCompile(`^[^\x00-\x1f\x7f",\\\x{2028}\x{2029}]{1,128}$`)

// check names the faults of a lane's rule.
func (l *Lane) check(key string, isMQTT bool, fault func(key, format string, args ...any)) {
	if l.Filter != "" {
		if _, err := newFilter(l.Filter); err != nil {
			fault(key+".filter", "%w", err)
		}
	}
	if len(l.Fields) > maxFields {
		fault(key+".fields", "%d of them, at most %d", len(l.Fields), maxFields)
	}
	for i, name := range l.Fields {
		if !fieldForm.MatchString(name) || !plainText([]byte(name)) || slices.Contains(l.Fields[:i], name) {
			fault(key+".fields", "%q stands there twice, or is none: up to 128 characters without commas, quotes, backslashes and control characters", name)
		}
	}
	if l.Thin == nil {
		return
	}
	t, ways := l.Thin, 0
	if t.After < minInterval {
		fault(key+".thin.after", "say from which age on, as in 1h: what is younger is carried whole")
	}
	for _, way := range []struct {
		name string
		over time.Duration
	}{{"last_over", t.LastOver}, {"mean_over", t.MeanOver}} {
		if way.over == 0 {
			continue
		}
		if ways++; way.over < minInterval || way.over > maxInterval {
			fault(key+".thin."+way.name, "%v is not between %v and %v", way.over, minInterval, maxInterval)
		}
	}
	if t.Every != 0 {
		if ways++; t.Every < 2 || t.Every > maxEvery {
			fault(key+".thin.every", "%d is not between 2 and %d", t.Every, maxEvery)
		}
	}
	if ways != 1 {
		fault(key+".thin", "name one of last_over, mean_over and every")
	}
	if isMQTT && t.MeanOver > 0 {
		fault(key+".thin.mean_over", "an MQTT broker answers for each message by itself, and may keep half of what a mean stands for waiting: use last_over or every")
	}
}

// rule is what a lane says of its records; nil where it says nothing.
type rule struct {
	filter *filter
	fields []string // [all]
	names  []byte   // of the fields, as FieldsHeader has them
	thin   *Thin
}

// newRule compiles what check has found to be right.
func (l *Lane) newRule() *rule {
	if l.Filter == "" && len(l.Fields) == 0 && l.Thin == nil {
		return nil
	}
	r := &rule{fields: l.Fields, names: []byte(strings.Join(l.Fields, ",")), thin: l.Thin}
	if l.Filter != "" {
		var err error
		if r.filter, err = newFilter(l.Filter); err != nil {
			panic("BUG: a filter that was checked: " + err.Error())
		}
	}
	return r
}

// interval is what old records are put together over, 0 when they are not.
func (t *Thin) interval() time.Duration { return max(t.LastOver, t.MeanOver) }

// old says whether a record is to be thinned.
func (t *Thin) old(r *log.Record, now time.Time) bool {
	return t != nil && now.UnixMilli()-r.Timestamp >= t.After.Milliseconds()
}

// together says whether an old record is thinned together with others of its key: one without a key stands for itself, and nothing says that it is outdated.
func (t *Thin) together(r *log.Record) bool { return t.interval() > 0 && r.Key != nil }

// project keeps the named members of a payload, in the order in which they are named, each as its bytes stand there.
func (r *rule) project(value []byte) ([]byte, error) {
	format, members, err := payload.Members(value)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(r.fields))
	for _, name := range r.fields {
		if _, there := members[name]; there {
			names = append(names, name)
		}
	}
	var o payload.Object
	o.Begin(format, len(names))
	for _, name := range names {
		o.Name(name)
		o.Raw(members[name])
	}
	o.End()
	return o.Bytes(), nil
}

// filter is a compiled condition.
type filter struct {
	program *vm.Program
	vm      vm.VM
	env     map[string]any
	payload bool // it looks into the payload
	headers bool // it looks at headers
}

// filterEnv names what a condition may use, with the types it sees.
var filterEnv = map[string]any{"payload": map[string]any{}, "key": "", "topic": "", "headers": map[string]string{}, "timestamp": int64(0)}

func newFilter(text string) (*filter, error) {
	if len(text) > maxFilter {
		return nil, fmt.Errorf("%d bytes, at most %d", len(text), maxFilter)
	}
	opts := []expr.Option{expr.Env(filterEnv), expr.AsBool(), expr.DisableAllBuiltins()}
	for _, name := range []string{"abs", "len", "lower", "upper"} {
		opts = append(opts, expr.EnableBuiltin(name))
	}
	program, err := expr.Compile(text, opts...)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("%s; it may use payload, key, topic, headers, timestamp, and the functions abs, len, lower, upper", first)
	}
	return &filter{program: program, env: map[string]any{}, payload: strings.Contains(text, "payload"), headers: strings.Contains(text, "headers")}, nil
}

var errNoBool = errors.New("the filter is neither true nor false")

// keeps says whether a record is to be carried. What cannot be judged is: only false leaves out.
func (f *filter) keeps(topic string, r *log.Record) (bool, error) {
	clear(f.env)
	f.env["key"], f.env["topic"], f.env["timestamp"] = string(r.Key), topic, r.Timestamp
	if f.payload {
		fields, err := payload.Fields(r.Value)
		if err != nil {
			return true, err
		}
		f.env["payload"] = fields
	}
	if f.headers {
		headers := make(map[string]string, len(r.Headers))
		for _, h := range r.Headers {
			headers[string(h.Key)] = string(h.Value)
		}
		f.env["headers"] = headers
	}
	out, err := f.vm.Run(f.program, f.env)
	if err != nil {
		return true, err
	}
	is, ok := out.(bool)
	if !ok {
		return true, errNoBool
	}
	return is, nil
}

// tally counts what `every` has seen of each key, along one stretch of a partition without a break. Whoever begins elsewhere begins anew, with the first of each key, so that between
// two that are carried there are never more left out than was said.
type tally struct {
	next log.Offset       // where the stretch goes on
	seen map[[16]byte]int // by the beginning of the key's SHA-256: keys may be long
}

// maxTally bounds the keys of a partition that are counted: with more it begins anew.
const maxTally = 10_000

// carries counts a record.
func (t *tally) carries(key []byte, every int) bool {
	sum := sha256.Sum256(key)
	k := [16]byte(sum[:])
	n, known := t.seen[k]
	if !known && len(t.seen) >= maxTally {
		clear(t.seen)
	}
	t.seen[k] = (n + 1) % every
	return n == 0
}

// from has it go on at an offset, or begin anew. Until it is said where it goes on it goes on nowhere: what was counted on the way may not count.
func (t *tally) from(at log.Offset) {
	if t.seen == nil || t.next != at {
		t.seen = map[[16]byte]int{}
	}
	t.next = -1
}
