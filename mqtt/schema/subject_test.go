package schema

import (
	"errors"
	"testing"
)

func testSubject(rule Rule) (*Subject, *Counters, *int) {
	counters, woken := &Counters{}, new(int)
	return NewSubject(rule, counters, func() { *woken++ }), counters, woken
}

func TestSubjectWaitsUntilItKnows(t *testing.T) {
	s, counters, _ := testSubject(Rule{Subject: "s", Frame: FrameNone})
	if _, _, err := s.For([]byte(`1`)); !errors.Is(err, ErrWaiting) {
		t.Error(err)
	}
	s.Failed(errors.New("no route to host"))
	_, _, err := s.For([]byte(`1`))
	wants(t, "failed", err, "its schema is not known: s: no route to host")
	if !errors.Is(err, ErrOutage) {
		t.Error(err)
	}
	known := mustCompile(t, JSON, `{"type": "integer"}`)
	s.Known([]*Version{known}, nil)
	s.Failed(errors.New("no route to host"))
	v, body, err := s.For([]byte(`1`))
	if v != known || string(body) != "1" || err != nil {
		t.Errorf("after an outage: %v %q %v", v, body, err)
	}
	wants(t, "verdict", s.Verdict(v, v.Check([]byte(`"x"`))), "schema vibration-value version 3: / is string, not integer")
	wants(t, "verdict", s.Verdict(v, v.Check(body)), "")
	if counters.Checked.Load() != 2 || counters.Refused.Load() != 1 {
		t.Errorf("%d checked, %d refused", counters.Checked.Load(), counters.Refused.Load())
	}
}

func TestSubjectFindsTheVersionThatAFrameNames(t *testing.T) {
	s, counters, woken := testSubject(Rule{Subject: "s", Frame: FrameDevice})
	one := &Version{ID: 1, Number: 1, Format: JSON}
	two := &Version{ID: 0x01020304, Number: 2, Format: JSON}
	if _, _, err := s.For(one.AppendFrame(nil)); !errors.Is(err, ErrWaiting) {
		t.Error(err)
	}
	s.Known([]*Version{two, one}, s.Asked())
	for _, want := range []*Version{one, two} {
		if v, body, err := s.For(append(want.AppendFrame(nil), "{}"...)); v != want || string(body) != "{}" || err != nil {
			t.Errorf("%v %q %v", v, body, err)
		}
	}
	for _, payload := range []string{"", "{}", "\x01\x00\x00\x00\x01{}", "\x00\x00\x00\x01"} {
		_, _, err := s.For([]byte(payload))
		wants(t, payload, err, "does not begin with a zero byte")
	}
	_, _, err := s.For([]byte("\x00\xff\xff\xff\xff"))
	wants(t, "negative", err, "no schema's id")
	if counters.Refused.Load() != 5 {
		t.Errorf("%d refused", counters.Refused.Load())
	}

	new := &Version{ID: 3, Number: 3, Format: JSON}
	payload := new.AppendFrame(nil)
	if _, _, err := s.For(payload); !errors.Is(err, ErrWaiting) || *woken != 1 {
		t.Errorf("an unknown id: %v, woken %d times", err, *woken)
	}
	s.Failed(errors.New("away"))
	if _, _, err := s.For(payload); !errors.Is(err, ErrOutage) || *woken != 1 {
		t.Errorf("an unknown id in an outage: %v, woken %d times", err, *woken)
	}
	asked := s.Asked()
	s.Known([]*Version{two, one}, asked)
	_, _, err = s.For(payload)
	wants(t, "settled", err, "schema s: 3 is the id of none of the subject's last 16 versions")
	s.Known([]*Version{two, one}, s.Asked())
	if _, _, err := s.For(payload); !errors.Is(err, ErrWaiting) || *woken != 2 {
		t.Errorf("an id that was refused is asked for again after an answer: %v, woken %d times", err, *woken)
	}
	s.Known([]*Version{new, two, one}, s.Asked())
	if v, _, err := s.For(payload); v != new || err != nil {
		t.Errorf("once it is registered: %v %v", v, err)
	}
}

// Ids that payloads invent take no room beyond a bound, and do not have an answer count that was asked for before them.
func TestSubjectBoundsInventedIDs(t *testing.T) {
	s, _, woken := testSubject(Rule{Subject: "s", Frame: FrameDevice})
	one := &Version{ID: 1, Number: 1, Format: JSON}
	s.Known([]*Version{one}, nil)
	for id := range int32(1000) {
		if _, _, err := s.For((&Version{ID: 100 + id}).AppendFrame(nil)); !errors.Is(err, ErrWaiting) {
			t.Fatal(err)
		}
	}
	asked := s.Asked()
	if len(asked) != maxAsked || *woken != maxAsked {
		t.Errorf("%d ids are asked for, woken %d times", len(asked), *woken)
	}
	s.Known([]*Version{one}, asked[1:])
	if _, _, err := s.For((&Version{ID: asked[0]}).AppendFrame(nil)); !errors.Is(err, ErrWaiting) {
		t.Errorf("an id that the answer is older than: %v", err)
	}
}

func TestRuleValidate(t *testing.T) {
	good := Rule{Subject: "plants/vibration-value", Format: Avro, Frame: FrameConfluent, Version: 2}
	if faults := good.Validate(); len(faults) > 0 {
		t.Error(faults)
	}
	bad := Rule{Subject: "a\nb", Format: "xml", Frame: "json", Version: -1}
	if faults := bad.Validate(); len(faults) != 4 {
		t.Error(faults)
	}
}
