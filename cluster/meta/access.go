package meta

import (
	"fmt"
	"slices"
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
}

// CredentialName is one credential of a user.
type CredentialName struct {
	User      string           `cbor:"1,keyasint"`
	Mechanism access.Mechanism `cbor:"2,keyasint"`
}

func (*AlterRules) kind() kind       { return kindAlterRules }
func (*AlterCredentials) kind() kind { return kindAlterCredentials }

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
	rules := slices.Clone(next.rules.Rules())
	find := func(r *access.Rule) (int, bool) {
		return slices.BinarySearchFunc(rules, r, func(a access.Rule, b *access.Rule) int { return a.Compare(b) })
	}
	for i := range c.Remove {
		if at, found := find(&c.Remove[i]); found {
			rules = slices.Delete(rules, at, at+1)
		}
	}
	for i := range c.Add {
		if err := c.Add[i].Validate(); err != nil {
			return nil, fmt.Errorf("rule %d: %w: %w", i, err, ErrRefused)
		}
		if at, found := find(&c.Add[i]); !found {
			rules = slices.Insert(rules, at, c.Add[i])
		}
	}
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
	all := slices.Clone(next.credentials)
	find := func(c *access.Credential) (int, bool) {
		return slices.BinarySearchFunc(all, c, func(a access.Credential, b *access.Credential) int { return a.Compare(b) })
	}
	for _, r := range c.Remove {
		if at, found := find(&access.Credential{User: r.User, Mechanism: r.Mechanism}); found {
			all = slices.Delete(all, at, at+1)
		}
	}
	for i := range c.Set {
		if err := c.Set[i].Validate(); err != nil {
			return nil, fmt.Errorf("credential %d: %w: %w", i, err, ErrRefused)
		}
		if at, found := find(&c.Set[i]); found {
			all[at] = c.Set[i]
		} else {
			all = slices.Insert(all, at, c.Set[i])
		}
	}
	if len(all) > access.MaxUsers*len(access.Mechanisms) {
		return nil, fmt.Errorf("credentials of more than %d users: remove what is not needed: %w", access.MaxUsers, ErrRefused)
	}
	next.CredentialsVersion, next.credentials = next.Version, all
	return nil, nil
}

// checkAccess is Check for rules and credentials (S5).
func (im *Image) checkAccess() error {
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
