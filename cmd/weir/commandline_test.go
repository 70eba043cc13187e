package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandLine runs weir as a shell would.
func commandLine(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelpIsACommandToo(t *testing.T) {
	for _, c := range []struct{ command, flag []string }{
		{[]string{"help"}, []string{"--help"}},
		{[]string{"help", "topics", "create"}, []string{"topics", "create", "--help"}},
	} {
		code, got, errs := commandLine(t, c.command...)
		if _, want, _ := commandLine(t, c.flag...); code != exitDone || errs != "" || got != want || want == "" {
			t.Errorf("%v: exit %d, stderr %q, stdout %q", c.command, code, errs, got)
		}
	}
}

func TestUnreadableCommandLinesNameTheHelpOfTheCommand(t *testing.T) {
	for want, args := range map[string][]string{
		"see `weir --help`":               {"tpoics"},
		"see `weir topics --help`":        {"topics"},
		"see `weir topics create --help`": {"topics", "create", "t", "--partition", "2"},
	} {
		code, out, errs := commandLine(t, args...)
		if code != exitUsage || out != "" || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
}

// The shell takes every line of stdout for a candidate and shows what is on stderr in the middle of the line being typed.
// bash gives the command, the word and the word before as arguments, fish none.
func TestCompletionPrintsCandidatesOnly(t *testing.T) {
	t.Setenv("COMP_LINE", "weir bench mqtt --ah")
	for _, args := range [][]string{{"weir", "--ah", "mqtt"}, {}} {
		if code, out, errs := commandLine(t, args...); code != exitDone || out != "--ahead\n" || errs != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
}

func TestCompletionPrintsCodeForTheShell(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete ", "zsh": "bashcompinit", "fish": "COMP_LINE"} {
		if code, out, errs := commandLine(t, "completion", shell); code != exitDone || !strings.Contains(out, want) || errs != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", shell, code, out, errs)
		}
	}
}

// A configuration is valid only if a node would start with it, so the files that it names are read as well.
func TestCheckConfigReadsTheFilesItNames(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	users := write("users.yaml", "users: [{name: a, password: not-a-hash}]\n")
	for text, want := range map[string]string{
		"auth: {file: " + dir + "/nosuch.yaml}": "auth.file",
		"auth: {file: " + users + "}":           "password",
		"tls: {cert: a.pem}":                    "tls.key",
		"tls: {client_ca: a.pem}":               "tls.cert",
		"tls: {cert: a.pem, key: a.key}":        "a.pem",
	} {
		code, out, errs := commandLine(t, "serve", "--check-config", "--config", write("weir.yaml", text+"\n"))
		if code != exitUsage || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", text, code, out, errs)
		}
	}
	if code, out, errs := commandLine(t, "serve", "--check-config", "--json", "--config", write("weir.yaml", "{}\n")); code != exitDone || out != "{\n  \"valid\": true\n}\n" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// The log's advice for a start, another directory, would send the operator of weir repair to a flag that it does not have.
func TestRepairBesideItsNodeSaysToStopIt(t *testing.T) {
	code, out, errs := commandLine(t, "repair", testNode(t).cfg.Node.Data)
	if code != exitFailed || out != "" || !strings.Contains(errs, "locked by another process") || !strings.Contains(errs, "stop the node") || strings.Contains(errs, "--data") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// A line that wraps would push the head of the board off a terminal's screen.
func TestDemoBoardFitsTheTerminal(t *testing.T) {
	board := &demoBoard{devices: map[string]*demoDevice{}}
	board.add(time.Now(), []byte("sim-thermostat-0"), []byte(`{"seq":0,"temperature":20.5,"note":"`+strings.Repeat("é", 100)+`"}`))
	for _, columns := range []int{0, 80} {
		var b strings.Builder
		board.write(&b, time.Now(), columns, 0)
		widest := 0
		for line := range strings.Lines(b.String()) {
			widest = max(widest, len([]rune(strings.TrimSuffix(line, "\n"))))
		}
		if columns == 0 && widest < 100 || columns > 0 && widest != columns {
			t.Errorf("%d columns: the widest line has %d:\n%s", columns, widest, b.String())
		}
	}
}
