package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A fault in a file is told by file, line and key, with what would be right, and exits 2: at the decoding, and at the checks behind it.
func TestFaultsOfFilesNameFileLineAndKey(t *testing.T) {
	for name, c := range map[string]struct {
		args       []string
		text, want string
	}{
		"unknown key":       {[]string{"serve", "--check-config", "--config"}, "routes:\n  - match: '#'\n    topc: t\n", ": line 3, routes[0].topc: unknown key"},
		"wrong type":        {[]string{"serve", "--check-config", "--config"}, "mqtt:\n  max_connections: many\n", `: line 2, mqtt.max_connections: "many" is not a whole number`},
		"size":              {[]string{"serve", "--check-config", "--config"}, "log:\n  disk_quota: 5XB\n", `: line 2, log.disk_quota: "5XB" is not a size`},
		"rule that is none": {[]string{"serve", "--check-config", "--config"}, "routes:\n  - match: a/#/b\n    topic: t\n", ": line 2, routes[0].match: "},
		"alert rules":       {[]string{"alerts", "check"}, "rules:\n  - name: a\n    window: x\n", `: line 3, rules[0].window: "x" is not a duration`},
	} {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), append(c.args, file), strings.NewReader(""), &out, &errs)
		if code != exitUsage || !strings.Contains(errs.String(), c.want) || !strings.Contains(errs.String(), "f.yaml") || strings.Contains(errs.String(), "Go ") {
			t.Errorf("%s: exit %d: %swant %s", name, code, &errs, c.want)
		}
	}
	for _, args := range [][]string{{"alerts", "run", "/nope"}, {"serve", "--config", "/nope"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "name an existing") {
			t.Errorf("%v: exit %d: %s", args, code, &errs)
		}
	}
}
