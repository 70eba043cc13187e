package access

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits (S5). What they add up to is far below what a snapshot of the metadata may hold.
const (
	MaxRules     = 10_000
	MaxName      = 1024 // bytes of a resource's name
	MaxPrincipal = 512
	MaxHost      = 64
)

// ErrInvalid: no rule or credential that could ever be of use.
var ErrInvalid = errors.New("invalid")

// The numbers of a rule's parts are those of Kafka's protocol, and are stored: they are for ever.
type (
	// Resource is a kind of thing that rules are about.
	Resource int8
	// Pattern is how a rule names things of that kind.
	Pattern int8
	// Operation is what somebody does with them.
	Operation int8
	// Permission is the rule's word.
	Permission int8
)

// Of filters only: Any matches every value, Match every pattern that a name is covered by.
const (
	AnyResource   Resource   = 1
	AnyPattern    Pattern    = 1
	MatchPattern  Pattern    = 2
	AnyOperation  Operation  = 1
	AnyPermission Permission = 1
)

const (
	Topic           Resource = 2
	Group           Resource = 3
	Cluster         Resource = 4
	TransactionalID Resource = 5

	Literal  Pattern = 3
	Prefixed Pattern = 4

	All             Operation = 2
	Read            Operation = 3
	Write           Operation = 4
	Create          Operation = 5
	Delete          Operation = 6
	Alter           Operation = 7
	Describe        Operation = 8
	ClusterAction   Operation = 9
	DescribeConfigs Operation = 10
	AlterConfigs    Operation = 11
	IdempotentWrite Operation = 12

	Deny  Permission = 2
	Allow Permission = 3
)

// Names that stand for all of a kind, and for what has no name of its own.
const (
	Wildcard    = "*"             // a literal name, or a host
	Everyone    = "User:*"        // a principal
	ClusterName = "kafka-cluster" // the one Cluster resource
	Anonymous   = "User:ANONYMOUS"
	userPrefix  = "User:"
)

// Principal is how rules call a user; who has proved nothing is Anonymous.
func Principal(user string) string {
	if user == "" {
		return Anonymous
	}
	return userPrefix + user
}

// Rule is one ACL. It is comparable: two that are equal are one.
type Rule struct {
	Resource   Resource   `cbor:"1,keyasint"`
	Pattern    Pattern    `cbor:"2,keyasint"`
	Name       string     `cbor:"3,keyasint"`
	Principal  string     `cbor:"4,keyasint"` // User:NAME, or User:*
	Host       string     `cbor:"5,keyasint"` // an address, or *
	Operation  Operation  `cbor:"6,keyasint"`
	Permission Permission `cbor:"7,keyasint"`
}

// Validate says why r is no rule; every error is an ErrInvalid.
func (r *Rule) Validate() error {
	name, isUser := strings.CutPrefix(r.Principal, userPrefix)
	switch {
	case r.Resource < Topic || r.Resource > TransactionalID:
		return fmt.Errorf("%w: rules are about topics, groups, the cluster and transactional ids: there is no resource type %d", ErrInvalid, r.Resource)
	case r.Pattern != Literal && r.Pattern != Prefixed:
		return fmt.Errorf("%w: a rule's pattern is literal or prefixed, not %d", ErrInvalid, r.Pattern)
	case r.Operation < All || r.Operation > IdempotentWrite:
		return fmt.Errorf("%w: operation %d", ErrInvalid, r.Operation)
	case r.Permission != Deny && r.Permission != Allow:
		return fmt.Errorf("%w: a rule allows or denies: permission %d", ErrInvalid, r.Permission)
	case r.Name == "" || len(r.Name) > MaxName || !utf8.ValidString(r.Name):
		return fmt.Errorf("%w: a resource's name has 1 to %d bytes of UTF-8, not %d", ErrInvalid, MaxName, len(r.Name))
	case r.Resource == Cluster && (r.Pattern != Literal || r.Name != ClusterName):
		return fmt.Errorf("%w: the cluster is called %q, literally", ErrInvalid, ClusterName)
	case !isUser || name == "" || len(r.Principal) > MaxPrincipal || !utf8.ValidString(name):
		return fmt.Errorf("%w: a principal is User:NAME or User:*, of %d bytes at most: %.100q", ErrInvalid, MaxPrincipal, r.Principal)
	case r.Host == "" || len(r.Host) > MaxHost || !utf8.ValidString(r.Host):
		return fmt.Errorf("%w: a host is an address, or *: %.100q", ErrInvalid, r.Host)
	}
	return nil
}

// Compare orders rules, by what they are about first.
func (r *Rule) Compare(o *Rule) int {
	return cmp.Or(cmp.Compare(r.Resource, o.Resource), cmp.Compare(r.Pattern, o.Pattern), strings.Compare(r.Name, o.Name),
		strings.Compare(r.Principal, o.Principal), strings.Compare(r.Host, o.Host),
		cmp.Compare(r.Operation, o.Operation), cmp.Compare(r.Permission, o.Permission))
}

// Filter chooses rules. Nil, and the Any of a kind, choose all.
type Filter struct {
	Resource   Resource
	Pattern    Pattern
	Name       *string
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Validate says why nothing could be meant by f; every error is an ErrInvalid.
func (f *Filter) Validate() error {
	switch {
	case f.Resource < AnyResource, f.Pattern < AnyPattern || f.Pattern > Prefixed,
		f.Operation < AnyOperation || f.Operation > IdempotentWrite, f.Permission < AnyPermission || f.Permission > Allow:
		return fmt.Errorf("%w: a filter with a part that this version of weir does not know: %d, %d, %d, %d", ErrInvalid, f.Resource, f.Pattern, f.Operation, f.Permission)
	}
	return nil
}

// Chooses tells whether r is among what f asks for.
func (f *Filter) Chooses(r *Rule) bool {
	is := func(want *string, got string) bool { return want == nil || *want == got }
	return (f.Resource == AnyResource || f.Resource == r.Resource) && f.named(r) && is(f.Principal, r.Principal) && is(f.Host, r.Host) &&
		(f.Operation == AnyOperation || f.Operation == r.Operation) && (f.Permission == AnyPermission || f.Permission == r.Permission)
}

func (f *Filter) named(r *Rule) bool {
	switch {
	case f.Pattern == MatchPattern && f.Name != nil:
		return r.Name == *f.Name && r.Pattern == Literal || r.Pattern == Literal && r.Name == Wildcard || r.Pattern == Prefixed && strings.HasPrefix(*f.Name, r.Name)
	case f.Pattern == MatchPattern || f.Pattern == AnyPattern:
		return f.Name == nil || *f.Name == r.Name
	}
	return f.Pattern == r.Pattern && (f.Name == nil || *f.Name == r.Name)
}
