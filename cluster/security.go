package cluster

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
)

// Rules and credentials are metadata: each node has them in the order in which they were changed, and after a restart, a snapshot and a recovery of the quorum.

// AddRules adds rules; they are in force here when it returns, all together. Those that are there already write nothing.
func (b *Broker) AddRules(ctx context.Context, rules []access.Rule) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		there := make(map[access.Rule]bool, len(im.Rules().Rules()))
		for _, r := range im.Rules().Rules() {
			there[r] = true
		}
		cmd := &meta.AlterRules{Expect: im.RulesVersion}
		for _, r := range rules {
			if !there[r] {
				there[r] = true
				cmd.Add = append(cmd.Add, r)
			}
		}
		if len(cmd.Add) == 0 { // C6: says nothing new
			return nil, nil
		}
		return b.quorum.Propose(ctx, cmd)
	})
	if err != nil {
		return fmt.Errorf("add rules: %w", err)
	}
	return b.awaitMetadata(ctx)
}

// RemoveRules removes the rules that are chosen, and answers them; none of them is in force here when it returns. As many go together as one command holds; with an
// error, removed are those that are gone all the same.
func (b *Broker) RemoveRules(ctx context.Context, chosen func(access.Rule) bool) (removed []access.Rule, err error) {
	for more := true; more; {
		gone, err := decide(ctx, b.quorum, func(im *meta.Image) ([]access.Rule, error) {
			cmd := &meta.AlterRules{Expect: im.RulesVersion}
			cmd.Remove, more = chosenRules(im.Rules().Rules(), chosen)
			if len(cmd.Remove) == 0 {
				return nil, nil
			}
			_, err := b.quorum.Propose(ctx, cmd)
			return cmd.Remove, err
		})
		if err != nil {
			return removed, fmt.Errorf("remove rules, %d of them done: %w", len(removed), err)
		}
		removed = append(removed, gone...)
	}
	return removed, b.awaitMetadata(ctx)
}

// maxRemoval bounds one command: its rules' texts, and some bytes for each rule besides, stay below half of meta.MaxCommandBytes.
const maxRemoval = meta.MaxCommandBytes / 2

// chosenRules are the first of those that are chosen, as many as one command holds.
func chosenRules(rules []access.Rule, chosen func(access.Rule) bool) (some []access.Rule, more bool) {
	size := 0
	for _, r := range rules {
		if !chosen(r) {
			continue
		}
		if size += len(r.Name) + len(r.Principal) + len(r.Host) + 32; size > maxRemoval {
			return some, true
		}
		some = append(some, r)
	}
	return some, false
}

// AlterCredentials sets and removes credentials, which is in force here when it returns. The first to do so gives the cluster its secret.
func (b *Broker) AlterCredentials(ctx context.Context, set []access.Credential, remove []meta.CredentialName) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		cmd := &meta.AlterCredentials{Expect: im.CredentialsVersion, Set: set, Remove: remove}
		if im.Secret() == nil {
			cmd.Secret = make([]byte, meta.SecretBytes)
			rand.Read(cmd.Secret)
		}
		return b.quorum.Propose(ctx, cmd)
	})
	if err != nil {
		return fmt.Errorf("alter credentials: %w", err)
	}
	return b.awaitMetadata(ctx)
}
