package model

import (
	"strings"
	"testing"
)

func searchRegistry(d deviation, starts uint8) found {
	m := (&registering{rules: rules{d}}).begin(registry{starts: starts, repeats: 2, copies: 1})
	return explore[registry](m, 5_000_000)
}

func TestRegistrationHolds(t *testing.T) {
	withoutRace(t)
	if f := searchRegistry(0, 4); f.broken != "" || !f.whole {
		t.Error(f)
	} else {
		t.Log(f)
	}
}

func TestSoakRegistrationHolds(t *testing.T) {
	soaking(t)
	if f := searchRegistry(0, 6); f.broken != "" || !f.whole {
		t.Error(f)
	} else {
		t.Log(f)
	}
}

func TestBrokenRegistrationsAreFound(t *testing.T) {
	for _, c := range []struct {
		name    string
		without deviation
		want    string
	}{
		{"nonce presented before it is synced", nonceUnsynced, "thrown out"},
		{"older nonces forgotten before the new one is confirmed", forgetsEarly, "thrown out"},
		{"any nonce accepted", acceptsAny, "keeps its place"},
		{"a copy takes the place of a process that is alive", copyTakesOver, "thrown out"},
		{"hole 10: a refusal throws out", refusalEvicts, "thrown out"},
		{"hole 11: a repeated request registers again", repeatRegisters, "another BE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := searchRegistry(c.without, 4)
			t.Log(f)
			if !strings.Contains(f.broken, c.want) || f.broken == "" {
				t.Errorf("broken %q, want %q", f.broken, c.want)
			}
		})
	}
}
