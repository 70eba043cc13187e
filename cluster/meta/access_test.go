package meta

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/weir-io/weir/cluster/access"
)

func alterRules(t *testing.T, im *Image, add, remove []access.Rule) *Image {
	t.Helper()
	return mustApply(t, im, &AlterRules{Expect: im.RulesVersion, Add: add, Remove: remove})
}

// Rules are a set in an order of their own, whatever order they come in, and survive a snapshot and a recovery of the quorum.
func TestRulesAreASet(t *testing.T) {
	a, b, c := aRule("User:a", access.Allow), aRule("User:b", access.Deny), aRule("User:c", access.Allow)
	im := alterRules(t, NewImage(), []access.Rule{c, a, a}, nil)
	im = alterRules(t, im, []access.Rule{b}, []access.Rule{c, aRule("User:z", access.Deny)})
	want := []access.Rule{a, b}
	if got := im.Rules().Rules(); !slices.Equal(got, want) {
		t.Fatalf("rules %v, want %v", got, want)
	}
	secret := bytes.Repeat([]byte{7}, SecretBytes)
	im = mustApply(t, im, &AlterCredentials{Set: []access.Credential{aCredential("b"), aCredential("a")}, Secret: secret})
	im = mustApply(t, im, &AlterCredentials{Expect: im.CredentialsVersion, Secret: bytes.Repeat([]byte{8}, SecretBytes)}) // one for good
	again, err := DecodeImage(bytes.NewReader(encoded(t, im)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err = again.BeginGeneration(3); err != nil {
		t.Fatal(err)
	}
	if got := again.Rules().Rules(); !slices.Equal(got, want) || again.RulesVersion != im.RulesVersion {
		t.Errorf("rules after a snapshot and a recovery: %v of version %d", got, again.RulesVersion)
	}
	if !bytes.Equal(again.Secret(), secret) {
		t.Errorf("secret %x", again.Secret())
	}
	if c, ok := again.Credential("b", access.SHA256); !ok || c.User != "b" || len(again.CredentialsOf("c")) != 0 {
		t.Errorf("credentials after a snapshot and a recovery: %v", again.Credentials())
	}
	if again.Rules().Decide("User:b", "h", access.Read, access.Topic, "plant-1") != access.Denied {
		t.Error("rules after a snapshot do not bind")
	}
	im = mustApply(t, im, &AlterCredentials{Expect: im.CredentialsVersion, Remove: []CredentialName{{"a", access.SHA256}, {"b", access.SHA512}}})
	if got := im.Credentials(); len(got) != 1 || got[0].User != "b" {
		t.Errorf("credentials %v", got)
	}
}

// C1: what was decided on rules that are not those of now is refused, and so is what is no rule, or one too many (S5).
func TestRulesRefused(t *testing.T) {
	im := alterRules(t, NewImage(), []access.Rule{aRule("User:a", access.Allow)}, nil)
	im = mustApply(t, im, &AlterCredentials{Set: []access.Credential{aCredential("a")}})
	many := make([]access.Rule, access.MaxRules)
	for i := range many {
		many[i] = aRule("User:a", access.Allow)
		many[i].Name = "t" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
	}
	bad := aCredential("a")
	bad.Iterations = access.MaxIterations + 1
	for name, c := range map[string]struct {
		cmd  Command
		want error
	}{
		"rules moved on":       {&AlterRules{Expect: im.RulesVersion - 1}, ErrConflict},
		"credentials moved on": {&AlterCredentials{Expect: im.CredentialsVersion + 1}, ErrConflict},
		"no rule":              {&AlterRules{Expect: im.RulesVersion, Add: []access.Rule{{}}}, ErrRefused},
		"one too many":         {&AlterRules{Expect: im.RulesVersion, Add: many}, ErrRefused},
		"short secret":         {&AlterCredentials{Expect: im.CredentialsVersion, Secret: []byte{1}}, ErrRefused},
		"no credential":        {&AlterCredentials{Expect: im.CredentialsVersion, Set: []access.Credential{bad}}, ErrRefused},
	} {
		next, _, err := im.Apply(c.cmd)
		if !errors.Is(err, c.want) || next != im {
			t.Errorf("%s: %v", name, err)
		}
	}
	alterRules(t, im, many[1:], nil) // as many as there may be
}
