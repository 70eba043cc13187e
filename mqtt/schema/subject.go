package schema

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// Rule is what a route says about the schema of its payloads.
//
//	schema:
//	  subject: vibration-value  # of the registry
//	  format: avro              # avro | json | protobuf; default: what the registry says it is
//	  version: 3                # default: the latest, followed as it changes
//	  message: plants.Vibration # of Protobuf; default: the first of the file
//	  frame: confluent          # none (default) | confluent | device
type Rule struct {
	Subject string `yaml:"subject"`
	Format  Format `yaml:"format,omitempty"`
	Version int    `yaml:"version,omitempty"`
	Message string `yaml:"message,omitempty"`
	Frame   Frame  `yaml:"frame,omitempty"`
}

const maxSubject = 512 // bytes of its name

// Validate returns every fault at once, each beginning with the field's name.
func (r *Rule) Validate() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case r.Subject == "":
		fault("subject: missing")
	case len(r.Subject) > maxSubject || strings.ContainsFunc(r.Subject, func(c rune) bool { return c < ' ' || c == 0x7f }):
		fault("subject: %.60q is no subject's name", r.Subject)
	}
	switch r.Format {
	case "", Avro, JSON, Protobuf:
	default:
		fault("format: %q is not one of avro, json, protobuf", r.Format)
	}
	if r.Version < 0 {
		fault("version: %d is no version; leave it out for the latest", r.Version)
	}
	switch r.Frame {
	case "", FrameNone, FrameConfluent, FrameDevice:
	default:
		fault("frame: %q is not one of none, confluent, device", r.Frame)
	}
	if r.Frame == FrameDevice && r.Version != 0 {
		fault("version: with frame: device each payload names its own")
	}
	if r.Message != "" && (r.Frame == FrameDevice || r.Format != Protobuf && r.Format != "") {
		fault("message: says which message of a Protobuf file bare payloads are")
	}
	return faults
}

var (
	// ErrWaiting: which schema holds is not known yet, and is being asked for. The payload waits.
	ErrWaiting = errors.New("its schema is being asked for")
	// ErrOutage: it is not known, and asking failed. The wrapping error says why. The payload waits, or what the route says.
	ErrOutage = errors.New("its schema is not known")
)

// maxAsked bounds the ids that payloads may name before the registry has been asked about them.
const maxAsked = 64

// Counters of all subjects of a registry.
type Counters struct {
	Checked, Refused atomic.Int64 // payloads
}

// Subject is what is known of one rule's schema. For is for any number of goroutines; Known and Failed for the one that asks the registry.
type Subject struct {
	Rule     Rule
	counters *Counters
	wake     func() // tells whoever asks the registry that there is something to ask

	state atomic.Pointer[state]

	mu     sync.Mutex
	asked  map[int32]bool // ids that no answer has settled
	absent map[int32]bool // ids that the last answer did not have
}

// state is never changed, only replaced.
type state struct {
	versions map[int32]*Version // by id: what a prefix may name
	bare     *Version           // what payloads without one are held to
	err      error              // of the last attempt
}

// NewSubject makes one of which nothing is known. wake must not block.
func NewSubject(rule Rule, counters *Counters, wake func()) *Subject {
	s := &Subject{Rule: rule, counters: counters, wake: wake, asked: map[int32]bool{}, absent: map[int32]bool{}}
	s.state.Store(&state{})
	return s
}

// For finds the version that a payload is held to, and the part of the payload that is. It answers from memory. Errors other than ErrWaiting and ErrOutage are permanent. // S3
func (s *Subject) For(payload []byte) (*Version, []byte, error) {
	st := s.state.Load()
	if s.Rule.Frame != FrameDevice {
		if st.bare == nil {
			return nil, nil, s.unknown(st)
		}
		return st.bare, payload, nil
	}
	if st.versions == nil {
		return nil, nil, s.unknown(st)
	}
	id, body, err := unframe(payload)
	if err != nil {
		return nil, nil, s.refuse(err)
	}
	v := st.versions[id]
	if v == nil {
		return nil, nil, s.ask(st, id)
	}
	if v.Format == Protobuf {
		v, body, err = v.named(body)
		return v, body, s.refuse(err)
	}
	return v, body, nil
}

// Verdict counts the outcome of a check and passes it on, with the schema's name.
func (s *Subject) Verdict(v *Version, err error) error {
	s.counters.Checked.Add(1)
	if err == nil {
		return nil
	}
	s.counters.Refused.Add(1)
	return fmt.Errorf("schema %s version %d: %w", v.Subject, v.Number, err)
}

func (s *Subject) refuse(err error) error {
	if err == nil {
		return nil
	}
	s.counters.Checked.Add(1)
	s.counters.Refused.Add(1)
	return fmt.Errorf("schema %s: %w", s.Rule.Subject, err)
}

func (s *Subject) unknown(st *state) error {
	if st.err != nil {
		return fmt.Errorf("%w: %s: %w", ErrOutage, s.Rule.Subject, st.err)
	}
	return fmt.Errorf("%w: %s", ErrWaiting, s.Rule.Subject)
}

// ask notes that a payload named an id that is not known. A producer may have registered it a moment ago, so the payload waits for the next answer of the registry, which
// is asked early for it; one that the answer did not have is refused until the answer after that. Who invents ids waits.
func (s *Subject) ask(st *state, id int32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent[id] {
		return s.refuse(fmt.Errorf("%d is the id of none of the subject's last %d versions", id, MaxVersions))
	}
	if !s.asked[id] && len(s.asked) < maxAsked {
		s.asked[id] = true
		s.wake()
	}
	return s.unknown(st)
}

// MaxVersions is how many of a subject's last versions a prefix may name.
const MaxVersions = 16

// Asked is what payloads have named since the last answer; give it back to Known with the answer.
func (s *Subject) Asked() []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int32
	for id := range s.asked {
		ids = append(ids, id)
	}
	return ids
}

// Known puts an answer of the registry in force: the versions that a prefix may name, with the one that bare payloads are held to first. asked are the ids that Asked had
// before the registry was: those that it does not have are refused from now on.
func (s *Subject) Known(versions []*Version, asked []int32) {
	st := &state{versions: make(map[int32]*Version, len(versions)), bare: versions[0]}
	for _, v := range versions {
		st.versions[v.ID] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.absent)
	for _, id := range asked {
		delete(s.asked, id)
		if st.versions[id] == nil {
			s.absent[id] = true
		}
	}
	s.state.Store(st)
}

// Failed notes why the registry could not be asked, or what it answered could not be used. What was known goes on being used. // S3
func (s *Subject) Failed(err error) {
	st := *s.state.Load()
	st.err = shorten(err)
	s.state.Store(&st)
}
