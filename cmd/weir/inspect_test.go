package main

import (
	"bytes"
	"strings"
	"testing"
)

// `weir inspect data` shows the metadata of a node that runs: who it is, what was agreed on, and that all of it is whole.
func TestInspectDataShowsTheMetadata(t *testing.T) {
	dir := testNode(t).cfg.Node.Data
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"meta.cbor: identity, cluster ", ", broker ", ", nonces held ", "raft.db: metadata log, ", "; ok\n", "every checksum is right"}},
		{[]string{"--all"}, []string{": RegisterBroker, ", ": CreateTopic, "}},
		{[]string{"--all", "--json"}, []string{`{"kind":"identity",`, `"command":"CreateTopic"`, `{"kind":"metadata",`}},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append([]string{"inspect", "data", dir}, c.args...), strings.NewReader(""), &out, &errs); code != exitDone {
			t.Errorf("%v: exit %d: %s", c.args, code, &errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, &out)
			}
		}
	}
}
