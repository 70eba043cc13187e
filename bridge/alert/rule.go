package alert

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/weir-io/weir/internal/strictyaml"
)

// File is a rule file.
type File struct {
	Group      string        `yaml:"group"`       // consumer group; default weir-alerts
	Output     string        `yaml:"output"`      // topic that alerts go to; default alerts
	Lateness   time.Duration `yaml:"lateness"`    // how far records may be out of order; default 10s
	Forget     time.Duration `yaml:"forget"`      // a device unseen so long leaves memory; default 24h
	MaxDevices int           `yaml:"max_devices"` // per partition; default 100000
	Time       string        `yaml:"time"`        // event time: record (default), or a payload field of milliseconds
	Rules      []*Rule       `yaml:"rules"`
}

// Rule is one entry of a rule file: When over a Window, or Absent.
type Rule struct {
	Name     string        `yaml:"name"`
	Topic    string        `yaml:"topic"`    // default telemetry
	Devices  string        `yaml:"devices"`  // glob over device names; default *
	Field    string        `yaml:"field"`    // payload field, dots descend; without it only count has a meaning
	Window   time.Duration `yaml:"window"`   //
	Every    time.Duration `yaml:"every"`    // a new window so often; default: window (no overlap)
	When     string        `yaml:"when"`     // expression over the window's figures
	Absent   time.Duration `yaml:"absent"`   // fires when a device was silent so long
	Severity string        `yaml:"severity"` // free text; default warning
	Message  string        `yaml:"message"`  // {device}, {rule} and the figures' names in braces

	path []string
	cond *vm.Program
}

const (
	maxRules   = 1000
	maxOverlap = 120 // windows of one rule and device that are open at once
)

// figures names what a condition may use, with the types it sees.
var figures = map[string]any{"avg": 0.0, "min": 0.0, "max": 0.0, "sum": 0.0, "count": 0, "first": 0.0, "last": 0.0, "rate": 0.0}

// Parse reads a rule file. Unknown keys are errors; all faults are reported at once, each with its rule.
func Parse(text []byte) (*File, error) {
	f := &File{}
	if err := strictyaml.Decode(text, f); err != nil { // an empty file has no rules, as is said below
		return nil, fmt.Errorf("rule file: %w", err)
	}
	set(&f.Group, "weir-alerts")
	set(&f.Output, "alerts")
	set(&f.Lateness, 10*time.Second)
	set(&f.Forget, 24*time.Hour)
	set(&f.MaxDevices, 100_000)
	set(&f.Time, "record")
	var errs []error
	if f.Lateness < 0 || f.Forget < 0 || f.MaxDevices < 0 {
		errs = append(errs, errors.New("lateness, forget and max_devices must not be negative"))
	}
	if len(f.Rules) == 0 || len(f.Rules) > maxRules {
		errs = append(errs, fmt.Errorf("%d rules: want 1 to %d", len(f.Rules), maxRules))
	}
	names := map[string]bool{}
	for i, r := range f.Rules {
		if r == nil {
			errs = append(errs, fmt.Errorf("rule %d is empty", i+1))
			continue
		}
		if names[r.Name] {
			errs = append(errs, fmt.Errorf("rule %d: the name %q is taken", i+1, r.Name))
		}
		names[r.Name] = true
		for _, err := range r.prepare(f) {
			errs = append(errs, fmt.Errorf("rule %d (%s): %w", i+1, r.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("rule file: %w", err)
	}
	return f, nil
}

func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

func (r *Rule) prepare(f *File) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	set(&r.Topic, "telemetry")
	set(&r.Devices, "*")
	set(&r.Severity, "warning")
	set(&r.Every, r.Window)
	if r.Name == "" {
		bad("it needs a name")
	}
	if _, err := path.Match(r.Devices, ""); err != nil {
		bad("devices: %q is no glob", r.Devices)
	}
	if r.Topic == f.Output {
		bad("topic: alerts about the alert topic %s would feed themselves", f.Output)
	}
	if r.Field != "" {
		r.path = strings.Split(r.Field, ".")
	}
	switch {
	case r.Absent < 0 || r.Window < 0 || r.Every < 0:
		bad("times must not be negative")
	case (r.Absent > 0) == (r.Window > 0):
		bad("want either window and when, or absent")
	case r.Absent > 0:
		if r.When != "" || r.Field != "" {
			bad("absent goes without when and field")
		}
		if r.Absent > f.Forget {
			bad("absent %v is longer than forget %v: the device would be forgotten first", r.Absent, f.Forget)
		}
	case r.Window < time.Millisecond || r.Every < time.Millisecond:
		bad("window and every must be 1ms or more")
	case r.Every > r.Window:
		bad("every %v is longer than window %v: readings would fall between", r.Every, r.Window)
	case (r.Window+2*f.Lateness)/r.Every > maxOverlap:
		bad("a window of %v every %v with lateness %v keeps more than %d windows open; use a greater every", r.Window, r.Every, f.Lateness, maxOverlap)
	default:
		if r.When == "" {
			bad("window needs when, as in \"avg > 30\"")
			break
		}
		var err error
		if r.cond, err = expr.Compile(r.When, expr.Env(figures), expr.AsBool(), expr.DisableAllBuiltins(), expr.EnableBuiltin("abs")); err != nil {
			first, _, _ := strings.Cut(err.Error(), "\n")
			bad("when: %s; it may use avg, min, max, sum, count, first, last, rate", first)
		}
	}
	return errs
}

// Topics lists what the rules read.
func (f *File) Topics() []string {
	var topics []string
	for _, r := range f.Rules {
		topics = append(topics, r.Topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func (r *Rule) covers(device string) bool {
	ok, _ := path.Match(r.Devices, device)
	return ok
}

// holds judges a window. An error of the expression itself (a division by zero) counts as false.
func (r *Rule) holds(w *window) bool {
	out, err := expr.Run(r.cond, w.figures())
	ok, _ := out.(bool)
	return err == nil && ok
}
