// The driver script in Go, for whatever driver: see README.md.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// What a driver does; errors are its own.
type connection interface {
	run(ctx context.Context, sql string, values []interface{}) ([][]interface{}, error)
	begin(ctx context.Context) error
	end(ctx context.Context, commits bool) error
	close(ctx context.Context) error
}

var connections = map[string]connection{}
var sqlstate = regexp.MustCompile(`^[0-9A-Z]{5}$`)

func show(value interface{}) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		if v {
			return "t"
		}
		return "f"
	case []byte:
		return string(v)
	}
	return fmt.Sprint(value)
}

func run(name string, sql string, fields []string) (string, error) {
	var values []interface{}
	for _, field := range fields {
		if field[0] == 'i' {
			number, _ := strconv.ParseInt(field[2:], 10, 64)
			values = append(values, number)
		} else {
			values = append(values, field[2:])
		}
	}
	rows, err := connections[name].run(context.Background(), sql, values)
	if err != nil {
		return "", err
	}
	var shown []string
	for _, row := range rows {
		var columns []string
		for _, value := range row {
			columns = append(columns, show(value))
		}
		shown = append(shown, strings.Join(columns, "|"))
	}
	return strings.Join(shown, ";"), nil
}

func release(fields []string) (string, error) {
	n, _ := strconv.Atoi(fields[1])
	refused := 0
	for i := 0; i < n; i++ {
		if _, err := run(fields[2], fields[4], nil); err != nil {
			return "", err
		}
		answer, err := run(fields[3], fields[5], nil)
		if err != nil {
			return "", err
		}
		if answer == "f" {
			refused++
		}
	}
	return strconv.Itoa(refused), nil
}

func command(fields []string) (string, error) {
	ctx := context.Background()
	switch fields[0] {
	case "open":
		url := "postgres://postgres@127.0.0.1:" + os.Getenv(fields[2]) + "/postgres?sslmode=disable"
		connection, err := connect(ctx, url)
		connections[fields[1]] = connection
		return "", err
	case "close":
		return "", connections[fields[1]].close(ctx)
	case "q":
		return run(fields[1], fields[2], nil)
	case "p":
		return run(fields[1], fields[2], fields[3:])
	case "begin":
		return "", connections[fields[1]].begin(ctx)
	case "release":
		return release(fields)
	}
	return "", connections[fields[1]].end(ctx, fields[0] == "commit")
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		answer, err := command(strings.Split(in.Text(), "\t"))
		if err != nil {
			state := stateOf(err)
			if !sqlstate.MatchString(state) {
				state = "closed"
			}
			fmt.Println("error\t" + state)
			continue
		}
		fmt.Println("ok\t" + answer)
	}
}
