package meta

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of the configs of consumer groups.
const (
	MaxGroupName    = 1024
	MaxGroupConfigs = 10_000 // groups with configs of their own
)

// GroupConfigs are the configs that one consumer group has of its own. A group need not exist to have them, nor be the same one for long.
type GroupConfigs struct {
	Group   string            `cbor:"1,keyasint"`
	Configs map[string]string `cbor:"2,keyasint"`
}

// AlterGroupConfigs gives a consumer group these configs, in place of those that it had. Answers nothing.
type AlterGroupConfigs struct {
	Expect  uint64            `cbor:"1,keyasint"` // Image.GroupsVersion
	Group   string            `cbor:"2,keyasint"`
	Configs map[string]string `cbor:"3,keyasint,omitempty"` // none: it has none any more
}

func (*AlterGroupConfigs) kind() kind { return kindAlterGroupConfigs }

// GroupConfigs lists the groups that have configs of their own, by name.
func (im *Image) GroupConfigs() []GroupConfigs { return im.groupConfigs }

// ConfigsOfGroup are the configs of one group, nil if it has none.
func (im *Image) ConfigsOfGroup(name string) map[string]string {
	if i, found := im.findGroup(name); found {
		return im.groupConfigs[i].Configs
	}
	return nil
}

func (im *Image) findGroup(name string) (int, bool) {
	return slices.BinarySearchFunc(im.groupConfigs, name, func(g GroupConfigs, name string) int { return strings.Compare(g.Group, name) })
}

func (c *AlterGroupConfigs) apply(next *Image) (any, error) {
	if c.Expect != next.GroupsVersion {
		return nil, fmt.Errorf("configs of groups: at version %d, not %d: %w", next.GroupsVersion, c.Expect, ErrConflict)
	}
	g := GroupConfigs{c.Group, c.Configs}
	if err := g.check(); err != nil {
		return nil, fmt.Errorf("configs of a group: %w: %w", err, ErrRefused)
	}
	i, found := next.findGroup(c.Group)
	all := slices.Clone(next.groupConfigs)
	switch {
	case found && len(c.Configs) == 0:
		all = slices.Delete(all, i, i+1)
	case found:
		all[i] = g
	case len(c.Configs) > 0:
		all = slices.Insert(all, i, g)
	}
	if len(all) > MaxGroupConfigs {
		return nil, fmt.Errorf("configs of %d groups, limit %d: remove those of groups that are gone: %w", len(all), MaxGroupConfigs, ErrRefused)
	}
	next.GroupsVersion, next.groupConfigs = next.Version, all
	return nil, nil
}

func (g *GroupConfigs) check() error {
	if g.Group == "" || len(g.Group) > MaxGroupName {
		return fmt.Errorf("group name of %d bytes", len(g.Group))
	}
	return checkConfigs(g.Configs)
}

// checkGroups is Check for the configs of groups.
func (im *Image) checkGroups() error {
	if len(im.groupConfigs) > MaxGroupConfigs || im.GroupsVersion > im.Version {
		return fmt.Errorf("configs of %d groups, of version %d", len(im.groupConfigs), im.GroupsVersion)
	}
	for i := range im.groupConfigs {
		g := &im.groupConfigs[i]
		if err := g.check(); err != nil {
			return fmt.Errorf("configs of group %d: %w", i, err)
		}
		if len(g.Configs) == 0 || i > 0 && im.groupConfigs[i-1].Group >= g.Group {
			return fmt.Errorf("configs of group %d: there are none, or they are not in their place", i)
		}
	}
	return nil
}
