// A stand-in for testcontainers' Ryuk, which is no Go module that a proxy has, and no image where there is no registry.
// It speaks the same protocol: a client connects to port 8080 and sends lines such as label=NAME=VALUE, each of which is
// answered by ACK. When no client has been connected for a while, all that matches a line is removed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

var docker = http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
	},
}}

var lock sync.Mutex
var filters = map[string][]string{}

func main() {
	if _, err := call("GET", "/_ping", nil); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Print("Started!")
	came, went := make(chan bool), make(chan bool)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				log.Fatal(err)
			}
			came <- true
			go serve(client, went)
		}
	}()
	connected, patience := 0, time.Minute
	for {
		var timeout <-chan time.Time
		if connected == 0 {
			timeout = time.After(patience)
		}
		select {
		case <-came:
			connected++
		case <-went:
			connected--
			patience = 10 * time.Second
			if text := os.Getenv("RYUK_RECONNECTION_TIMEOUT"); text != "" {
				if patience, err = time.ParseDuration(text); err != nil {
					log.Fatal(err)
				}
			}
		case <-timeout:
			remove()
			return
		}
	}
}

func serve(client net.Conn, went chan<- bool) {
	defer func() { client.Close(); went <- true }()
	lines := bufio.NewScanner(client)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		values, err := url.ParseQuery(line)
		if err != nil {
			log.Print(err)
			continue
		}
		lock.Lock()
		for name, wanted := range values {
			filters[name] = append(filters[name], wanted...)
		}
		lock.Unlock()
		log.Print("asked to remove ", line)
		fmt.Fprintln(client, "ACK")
	}
}

func remove() {
	lock.Lock()
	defer lock.Unlock()
	for name, wanted := range filters {
		for _, value := range wanted {
			text, _ := json.Marshal(map[string][]string{name: {value}})
			query := "filters=" + url.QueryEscape(string(text))
			removeEach("/containers/json?all=1&"+query, "/containers/%s?force=1&v=1", "", "Id")
			removeEach("/networks?"+query, "/networks/%s", "", "Id")
			removeEach("/volumes?"+query, "/volumes/%s", "Volumes", "Name")
			removeEach("/images/json?"+query, "/images/%s?force=1", "", "Id")
		}
	}
}

func removeEach(list, path, field, key string) {
	body, err := call("GET", list, nil)
	if err != nil {
		log.Print(err)
		return
	}
	if field != "" {
		var outer map[string]json.RawMessage
		_ = json.Unmarshal(body, &outer)
		body = outer[field]
	}
	var found []map[string]any
	_ = json.Unmarshal(body, &found)
	for _, each := range found {
		_, err := call("DELETE", fmt.Sprintf(path, each[key]), nil)
		log.Print("removed ", each[key], " ", err)
	}
}

func call(method, path string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequest(method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	answer, err := docker.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 400 {
		err = fmt.Errorf("%s %s: %s", method, path, text)
	}
	return text, err
}
