package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weir-io/weir/mqtt/schema"
)

// fetch asks for the versions that payloads of e may be held to, with the one for bare payloads first.
func (c *client) fetch(ctx context.Context, e *entry) ([]*schema.Version, error) {
	rule := &e.subject.Rule
	newest, err := c.load(ctx, e, rule.Version)
	if err != nil || rule.Frame != schema.FrameDevice {
		return []*schema.Version{newest}, err
	}
	numbers, err := c.versions(ctx, rule.Subject)
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	versions := []*schema.Version{newest}
	for _, number := range slices.Backward(numbers[max(0, len(numbers)-schema.MaxVersions):]) {
		if number == newest.Number {
			continue
		}
		v := e.known[number]
		if v == nil {
			if v, err = c.load(ctx, e, number); unreachable(err) {
				return nil, err
			} else if err != nil {
				continue // an old version that cannot be used takes none of the others away
			}
		}
		versions = append(versions, v)
	}
	return versions, nil
}

// load gets one version ready for use, 0 for the latest. One that is known is not compiled again: an id never changes its text.
func (c *client) load(ctx context.Context, e *entry, number int) (*schema.Version, error) {
	rule := &e.subject.Rule
	a, err := c.version(ctx, rule.Subject, number)
	if err != nil {
		return nil, err
	}
	if a.ID < 0 || a.Version <= 0 {
		return nil, &unusable{fmt.Errorf("the registry gives it the id %d and the version %d", a.ID, a.Version)}
	}
	if rule.Format != "" && a.format() != rule.Format {
		return nil, &unusable{fmt.Errorf("version %d is %s, and the route says %s", a.Version, a.format(), rule.Format)}
	}
	if rule.Message != "" && a.format() != schema.Protobuf {
		return nil, &unusable{fmt.Errorf("version %d is %s, and the route names a message of it", a.Version, a.format())}
	}
	if v := e.known[a.Version]; v != nil && v.ID == a.ID {
		return v, nil
	}
	refs := references{client: c, seen: map[string]bool{}}
	if err := refs.follow(ctx, &a, []string{place(rule.Subject, a.Version)}); err != nil {
		return nil, err
	}
	v, err := schema.Compile(schema.Source{Subject: rule.Subject, ID: a.ID, Number: a.Version, Format: a.format(), Message: rule.Message, Text: a.Schema, References: refs.list})
	if err != nil {
		return nil, &unusable{fmt.Errorf("version %d: %w", a.Version, err)}
	}
	return v, nil
}

// unusable is what the registry has and weir cannot use.
type unusable struct{ error }

func (u *unusable) Unwrap() error { return u.error }

// references collects what a schema refers to, what is referred to first.
type references struct {
	client *client
	seen   map[string]bool
	list   []schema.Reference
	bytes  int
}

// follow asks for the references of a, to which path leads. // S2
func (r *references) follow(ctx context.Context, a *answer, path []string) error {
	for _, ref := range a.References {
		at := place(ref.Subject, ref.Version)
		if slices.Contains(path, at) {
			return &unusable{fmt.Errorf("its references are cyclic: %s", strings.Join(append(path, at), " → "))}
		}
		key := ref.Name + "\x00" + at
		if r.seen[key] {
			continue
		}
		if len(path) > schema.MaxDepth {
			return &unusable{fmt.Errorf("its references are more than %d deep: %s", schema.MaxDepth, strings.Join(path, " → "))}
		}
		if len(r.seen) >= schema.MaxReferences {
			return &unusable{fmt.Errorf("it refers to more than %d schemas", schema.MaxReferences)}
		}
		if ref.Version <= 0 {
			return &unusable{fmt.Errorf("it refers to %s without a version", ref.Subject)}
		}
		r.seen[key] = true
		to, err := r.client.version(ctx, ref.Subject, ref.Version)
		if err != nil {
			return fmt.Errorf("%s, to which it refers: %w", at, err)
		}
		if to.format() != a.format() {
			return &unusable{fmt.Errorf("it is %s and refers to %s, which is %s", a.format(), at, to.format())}
		}
		if r.bytes += len(to.Schema); r.bytes > schema.MaxTexts {
			return &unusable{fmt.Errorf("it has more than %d bytes with all that it refers to", schema.MaxTexts)}
		}
		if err := r.follow(ctx, &to, append(slices.Clone(path), at)); err != nil {
			return err
		}
		r.list = append(r.list, schema.Reference{Name: ref.Name, Text: to.Schema})
	}
	return nil
}

func place(subject string, version int) string { return fmt.Sprintf("%.100s v%d", subject, version) }
