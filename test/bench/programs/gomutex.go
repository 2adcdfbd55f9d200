// gomutex: what Go's concurrency.Mutex does, each client with a session of its own.
//
//	gomutex locks ENDPOINT SECONDS CLIENTS [one] [apart]
//
// "one": all want the same lock.  "apart": each has a connection of its own, as
// separate programs have; without it they share one, which is faster.
//
//	gomutex handover ENDPOINT SECONDS SETTLE_MILLISECONDS  see handover.c
//
//	gomutex take ENDPOINT 0 0
//
// locks and unlocks each name that it reads, and answers how many microseconds the
// lock took.
//
// Prints what sample.h tells.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
)

const warmUp = 10

var background = context.Background()

type sample struct {
	kind string
	took time.Duration
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gomutex:", err)
		os.Exit(1)
	}
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	must(err)
	return value
}

func connect(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	must(err)
	return client
}

// session begins one; close it, or its lease lives on for a minute.
func session(client *clientv3.Client) *concurrency.Session {
	session, err := concurrency.NewSession(client)
	must(err)
	return session
}

func timed(call func(context.Context) error) time.Duration {
	began := time.Now()
	must(call(background))
	return time.Since(began)
}

// locks locks and unlocks until the time is over.
func locks(mutex *concurrency.Mutex, until time.Time) (samples []sample) {
	for time.Now().Before(until) {
		lock := timed(mutex.Lock)
		unlock := timed(mutex.Unlock)
		samples = append(samples, sample{"lock", lock}, sample{"unlock", unlock},
			sample{"pair", lock + unlock})
	}
	return samples
}

func locksOf(endpoint string, seconds float64, clients int, one bool, apart bool) {
	var wait sync.WaitGroup
	sessions := make([]*concurrency.Session, clients)
	mutexes := make([]*concurrency.Mutex, clients)
	samples := make([][]sample, clients)

	client := connect(endpoint)
	for i := range mutexes {
		if apart {
			client = connect(endpoint)
		}
		name := "/bench/go"
		if !one {
			name += strconv.Itoa(i)
		}
		sessions[i] = session(client)
		mutexes[i] = concurrency.NewMutex(sessions[i], name)
	}
	began := time.Now()
	until := began.Add(time.Duration(seconds * float64(time.Second)))
	for i := range mutexes {
		wait.Add(1)
		go func(i int) {
			samples[i] = locks(mutexes[i], until)
			wait.Done()
		}(i)
	}
	wait.Wait()
	took := time.Since(began)

	pairs := 0
	for _, of := range samples {
		pairs += len(of) / 3
		if len(of) > 6*warmUp {
			of = of[3*warmUp:]
		}
		printSamples(of)
	}
	printDone(pairs, took)
	for _, s := range sessions {
		must(s.Close())
	}
}

func handover(endpoint string, seconds float64, settle float64) {
	var samples []sample
	sessions := []*concurrency.Session{session(connect(endpoint)), session(connect(endpoint))}
	holder := concurrency.NewMutex(sessions[0], "/bench/gohandover")
	waiter := concurrency.NewMutex(sessions[1], "/bench/gohandover")

	must(holder.Lock(background))
	began := time.Now()
	for time.Since(began).Seconds() < seconds {
		granted := make(chan time.Time)
		go func() {
			must(waiter.Lock(background))
			granted <- time.Now()
		}()
		time.Sleep(time.Duration(settle * (1 + rand.Float64()/2) * float64(time.Millisecond)))
		released := time.Now()
		must(holder.Unlock(background))
		samples = append(samples, sample{"released", time.Since(released)},
			sample{"granted", (<-granted).Sub(released)})
		holder, waiter = waiter, holder
	}
	printSamples(samples)
	printDone(len(samples)/2, time.Since(began))
	for _, s := range sessions {
		must(s.Close())
	}
}

func take(endpoint string) {
	names := bufio.NewScanner(os.Stdin)
	s := session(connect(endpoint))
	for names.Scan() {
		mutex := concurrency.NewMutex(s, names.Text())
		fmt.Printf("%.2f\n", float64(timed(mutex.Lock).Nanoseconds())/1e3)
		must(mutex.Unlock(background))
	}
	must(s.Close())
}

var out = bufio.NewWriter(os.Stdout)

func printSamples(samples []sample) {
	for _, s := range samples {
		fmt.Fprintf(out, "%s %.2f\n", s.kind, float64(s.took.Nanoseconds())/1e3)
	}
}

func printDone(operations int, took time.Duration) {
	fmt.Fprintf(out, "done %d %.6f\n", operations, took.Seconds())
	out.Flush()
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: gomutex locks|handover|take ENDPOINT SECONDS ...")
		os.Exit(2)
	}
	endpoint, seconds := os.Args[2], number(os.Args[3])
	switch os.Args[1] {
	case "locks":
		options := map[string]bool{}
		for _, option := range os.Args[5:] {
			options[option] = true
		}
		locksOf(endpoint, seconds, int(number(os.Args[4])), options["one"], options["apart"])
	case "handover":
		handover(endpoint, seconds, number(os.Args[4]))
	case "take":
		take(endpoint)
	}
}
