package meta

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/weir-io/weir/cluster/access"
)

// AlterRules adds rules and removes others. One that is there already, or not there any more, changes nothing. Answers nothing.
type AlterRules struct {
	Expect uint64        `cbor:"1,keyasint"` // Image.RulesVersion
	Add    []access.Rule `cbor:"2,keyasint,omitempty"`
	Remove []access.Rule `cbor:"3,keyasint,omitempty"`
}

// AlterCredentials sets and removes credentials. Answers nothing.
type AlterCredentials struct {
	Expect uint64              `cbor:"1,keyasint"` // Image.CredentialsVersion
	Set    []access.Credential `cbor:"2,keyasint,omitempty"`
	Remove []CredentialName    `cbor:"3,keyasint,omitempty"`
	// Secret becomes Image.Secret, where there is none yet. Who proposes has drawn it.
	Secret []byte `cbor:"4,keyasint,omitempty"`
}

// CredentialName is one credential of a user.
type CredentialName struct {
	User      string           `cbor:"1,keyasint"`
	Mechanism access.Mechanism `cbor:"2,keyasint"`
}

func (*AlterRules) kind() kind       { return kindAlterRules }
func (*AlterCredentials) kind() kind { return kindAlterCredentials }

// SecretBytes is how long Image.Secret is.
const SecretBytes = 32

// Secret is the cluster's own, the same on all nodes and for good, and in no answer (S2); nil until the first credential is set. What nobody may be able to tell from
// chance, and has to be the same on all nodes, is made of it.
func (im *Image) Secret() []byte { return im.secret }

// Rules are who may do what, beside what each node's file says.
func (im *Image) Rules() *access.Set { return im.rules }

// Credentials lists all credentials by user, then mechanism.
func (im *Image) Credentials() []access.Credential { return im.credentials }

// CredentialsOf are those of one user.
func (im *Image) CredentialsOf(user string) []access.Credential {
	first, _ := slices.BinarySearchFunc(im.credentials, user, func(c access.Credential, user string) int { return strings.Compare(c.User, user) })
	last := first
	for last < len(im.credentials) && im.credentials[last].User == user {
		last++
	}
	return im.credentials[first:last]
}

// Credential finds one; false if there is none.
func (im *Image) Credential(user string, m access.Mechanism) (access.Credential, bool) {
	for _, c := range im.CredentialsOf(user) {
		if c.Mechanism == m {
			return c, true
		}
	}
	return access.Credential{}, false
}

func (c *AlterRules) apply(next *Image) (any, error) {
	if c.Expect != next.RulesVersion {
		return nil, fmt.Errorf("rules: at version %d, not %d: %w", next.RulesVersion, c.Expect, ErrConflict)
	}
	had := next.rules.Rules()
	gone, there := make(map[access.Rule]bool, len(c.Remove)), make(map[access.Rule]bool, len(had)+len(c.Add))
	for _, r := range c.Remove {
		gone[r] = true
	}
	rules := make([]access.Rule, 0, len(had)+len(c.Add))
	add := func(r access.Rule) {
		if !there[r] {
			there[r] = true
			rules = append(rules, r)
		}
	}
	for _, r := range had {
		if !gone[r] {
			add(r)
		}
	}
	for i := range c.Add {
		if err := c.Add[i].Validate(); err != nil {
			return nil, fmt.Errorf("rule %d: %w: %w", i, err, ErrRefused)
		}
		add(c.Add[i])
	}
	sort.Slice(rules, func(i, j int) bool { return rules[i].Compare(&rules[j]) < 0 })
	if len(rules) > access.MaxRules {
		return nil, fmt.Errorf("%d rules, limit %d: remove what is not needed: %w", len(rules), access.MaxRules, ErrRefused)
	}
	next.RulesVersion, next.rules = next.Version, access.NewSet(rules)
	return nil, nil
}

func (c *AlterCredentials) apply(next *Image) (any, error) {
	if c.Expect != next.CredentialsVersion {
		return nil, fmt.Errorf("credentials: at version %d, not %d: %w", next.CredentialsVersion, c.Expect, ErrConflict)
	}
	switch {
	case len(c.Secret) != 0 && len(c.Secret) != SecretBytes:
		return nil, fmt.Errorf("credentials: a secret of %d bytes, want %d: %w", len(c.Secret), SecretBytes, ErrRefused)
	case next.secret == nil && len(c.Secret) > 0:
		next.secret = c.Secret
	}
	name := func(c *access.Credential) CredentialName { return CredentialName{c.User, c.Mechanism} }
	last := make(map[CredentialName]*access.Credential, len(next.credentials)+len(c.Set))
	for i := range next.credentials {
		last[name(&next.credentials[i])] = &next.credentials[i]
	}
	for _, r := range c.Remove {
		delete(last, r)
	}
	for i := range c.Set {
		if err := c.Set[i].Validate(); err != nil {
			return nil, fmt.Errorf("credential %d: %w: %w", i, err, ErrRefused)
		}
		last[name(&c.Set[i])] = &c.Set[i]
	}
	all := make([]access.Credential, 0, len(last))
	for _, c := range last { // in no order, until it is sorted: C1
		all = append(all, *c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Compare(&all[j]) < 0 })
	if len(all) > access.MaxUsers*len(access.Mechanisms) {
		return nil, fmt.Errorf("credentials of more than %d users: remove what is not needed: %w", access.MaxUsers, ErrRefused)
	}
	next.CredentialsVersion, next.credentials = next.Version, all
	return nil, nil
}

// checkAccess is Check for rules and credentials (S5).
func (im *Image) checkAccess() error {
	if n := len(im.secret); n != 0 && n != SecretBytes {
		return fmt.Errorf("secret of %d bytes", n)
	}
	rules := im.rules.Rules()
	if len(rules) > access.MaxRules || im.RulesVersion > im.Version || im.CredentialsVersion > im.Version {
		return fmt.Errorf("%d rules of version %d, credentials of version %d", len(rules), im.RulesVersion, im.CredentialsVersion)
	}
	for i := range rules {
		if err := rules[i].Validate(); err != nil {
			return fmt.Errorf("rule %d: %w", i, err)
		}
		if i > 0 && rules[i-1].Compare(&rules[i]) >= 0 {
			return fmt.Errorf("rule %d is not in its place", i)
		}
	}
	for i := range im.credentials {
		c := &im.credentials[i]
		if err := c.Validate(); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		if i > 0 && im.credentials[i-1].Compare(c) >= 0 {
			return fmt.Errorf("%s is not in its place", c)
		}
	}
	return nil
}
