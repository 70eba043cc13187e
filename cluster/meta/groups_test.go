package meta

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The configs of a group are replaced as a whole, survive a snapshot and a recovery, and are gone when they are none.
func TestConfigsOfGroups(t *testing.T) {
	im := NewImage()
	alter := func(group string, configs map[string]string) {
		t.Helper()
		im = mustApply(t, im, &AlterGroupConfigs{Expect: im.GroupsVersion, Group: group, Configs: configs})
	}
	alter("b", map[string]string{"k": "1", "l": "1"})
	alter("a", map[string]string{"k": "2"})
	alter("b", map[string]string{"k": "3"})
	alter("c", map[string]string{"k": "4"})
	alter("c", nil)
	alter("d", nil)
	again, err := DecodeImage(bytes.NewReader(encoded(t, im)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err = again.BeginGeneration(1); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(again.GroupConfigs()); got != "[{a map[k:2]} {b map[k:3]}]" || again.GroupsVersion != im.GroupsVersion {
		t.Errorf("%s of version %d", got, again.GroupsVersion)
	}
	if again.ConfigsOfGroup("b")["k"] != "3" || again.ConfigsOfGroup("c") != nil {
		t.Errorf("%v", again.GroupConfigs())
	}
	for name, c := range map[string]struct {
		cmd  *AlterGroupConfigs
		want error
	}{
		"moved on":  {&AlterGroupConfigs{Expect: 1, Group: "a"}, ErrConflict},
		"no name":   {&AlterGroupConfigs{Expect: im.GroupsVersion, Configs: map[string]string{"k": "1"}}, ErrRefused},
		"long name": {&AlterGroupConfigs{Expect: im.GroupsVersion, Group: strings.Repeat("g", MaxGroupName+1)}, ErrRefused},
		"no config": {&AlterGroupConfigs{Expect: im.GroupsVersion, Group: "a", Configs: map[string]string{"": "1"}}, ErrRefused},
	} {
		if next, _, err := im.Apply(c.cmd); !errors.Is(err, c.want) || next != im {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := *im
	full.groupConfigs = slices.Clone(full.groupConfigs)
	for i := range MaxGroupConfigs - 2 {
		full.groupConfigs = append(full.groupConfigs, GroupConfigs{fmt.Sprintf("m%05d", i), map[string]string{"k": "1"}})
	}
	if _, _, err := full.Apply(&AlterGroupConfigs{Expect: im.GroupsVersion, Group: "z", Configs: map[string]string{"k": "1"}}); !errors.Is(err, ErrRefused) {
		t.Errorf("one too many behind %d: %v", len(full.GroupConfigs()), err)
	}
}
