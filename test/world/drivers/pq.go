// The driver script by database/sql and pq.
package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/lib/pq"
)

type pqConnection struct {
	db   *sql.DB
	conn *sql.Conn
	tx   *sql.Tx
}

func connect(ctx context.Context, url string) (connection, error) {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	return &pqConnection{db: db, conn: conn}, err
}

func stateOf(err error) string {
	var pqErr *pq.Error
	if errors.As(err, &pqErr) {
		return string(pqErr.Code)
	}
	return ""
}

func (c *pqConnection) run(ctx context.Context, text string, values []interface{}) ([][]interface{}, error) {
	query := c.conn.QueryContext
	if c.tx != nil {
		query = c.tx.QueryContext
	}
	rows, err := query(ctx, text, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all [][]interface{}
	for rows.Next() {
		row := make([]interface{}, len(columns))
		into := make([]interface{}, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func (c *pqConnection) begin(ctx context.Context) (err error) {
	c.tx, err = c.conn.BeginTx(ctx, nil)
	return err
}

func (c *pqConnection) end(ctx context.Context, commits bool) error {
	tx := c.tx
	c.tx = nil
	if commits {
		return tx.Commit()
	}
	return tx.Rollback()
}

func (c *pqConnection) close(ctx context.Context) error {
	c.conn.Close()
	return c.db.Close()
}
