package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
)

// More rules than one command holds are removed by several, and nothing of the others.
func TestRemoveManyRules(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	ctx := within(t)
	rules := make([]access.Rule, 3200)
	for i := range rules {
		rules[i] = access.Rule{
			Resource: access.Topic, Pattern: access.Literal, Name: fmt.Sprintf("%04d%s", i, strings.Repeat("n", access.MaxName-4)),
			Principal: "User:" + strings.Repeat("u", access.MaxPrincipal-5), Host: "*", Operation: access.Read, Permission: access.Allow,
		}
	}
	if _, err := meta.EncodeCommand(&meta.AlterRules{Remove: rules}); err == nil {
		t.Fatal("one command holds them all")
	}
	for i := 0; i < len(rules); i += 800 {
		if err := b.AddRules(ctx, rules[i:i+800]); err != nil {
			t.Fatal(err)
		}
	}
	before := b.Image().RulesVersion
	removed, err := b.RemoveRules(ctx, func(r access.Rule) bool { return !strings.HasPrefix(r.Name, "0007") })
	if err != nil || len(removed) != len(rules)-1 {
		t.Fatalf("%d removed, %v", len(removed), err)
	}
	if left := b.Image().Rules().Rules(); len(left) != 1 || left[0] != rules[7] {
		t.Errorf("%d rules are left", len(left))
	}
	if n := b.Image().RulesVersion - before; n != 3 {
		t.Errorf("by %d commands", n)
	}
	if removed, err = b.RemoveRules(ctx, func(access.Rule) bool { return false }); err != nil || removed != nil {
		t.Errorf("none: %v, %v", removed, err)
	}
}
