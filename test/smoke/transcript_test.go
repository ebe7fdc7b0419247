package main

import (
	"reflect"
	"testing"
)

func TestParseTranscript(t *testing.T) {
	markdown := "# Title\n\n$ not a command\n\n```sh\n$ not run\n```\n\n```console\n$ one | two\nfirst\n\nsecond\n$ three\n```\n\nText.\n\n```console\n$ four\n…\n```\n"
	want := []step{
		{line: 10, command: "one | two", want: []string{"first", "", "second"}},
		{line: 14, command: "three"},
		{line: 20, command: "four", want: []string{"…"}},
	}
	if got := parseTranscript(markdown); !reflect.DeepEqual(got, want) {
		t.Errorf("parseTranscript = %+v, want %+v", got, want)
	}
}

func TestStepMatches(t *testing.T) {
	for _, tt := range []struct {
		name   string
		want   []string
		output string
		match  bool
	}{
		{"the same", []string{"a", "b"}, "a\nb\n", true},
		{"carriage returns", []string{"HTTP/1.1 200 OK", "", "body"}, "HTTP/1.1 200 OK\r\n\r\nbody", true},
		{"another line", []string{"a", "b"}, "a\nc\n", false},
		{"a line too many", []string{"a"}, "a\nb\n", false},
		{"a line too few", []string{"a", "b"}, "a\n", false},
		{"elided lines", []string{"a", "…", "z"}, "a\nb\nc\nz\n", true},
		{"no lines elided", []string{"a", "…", "z"}, "a\nz\n", true},
		{"elided end", []string{"a", "…"}, "a\nb\n", true},
		{"wrong before the elision", []string{"a", "…"}, "b\na\n", false},
		{"missing after the elision", []string{"a", "…", "z"}, "a\nb\n", false},
		{"elided text", []string{"retry-after: …"}, "retry-after: 2\n", true},
		{"elided text may not be empty", []string{"retry-after: …"}, "retry-after: \n", false},
		{"elided text stays in its line", []string{"a …", "b"}, "a x\ny\nb\n", false},
		{"no regular expressions", []string{"a.c"}, "abc\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := step{want: tt.want}
			if got := s.matches(tt.output); got != tt.match {
				t.Errorf("matches(%q) = %v, want %v", tt.output, got, tt.match)
			}
		})
	}
}
