// The driver script by JDBC: see README.md.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.HashMap;
import java.util.Map;

public class Jdbc
{
	private static final Map<String, Connection> connections = new HashMap<>();
	private static final Map<String, ResultSet> open = new HashMap<>();

	private static String rows(Statement statement, boolean isRows) throws SQLException
	{
		StringBuilder all = new StringBuilder();

		if (!isRows)
			return "";
		try (ResultSet rows = statement.getResultSet())
		{
			int columns = rows.getMetaData().getColumnCount();

			for (boolean first = true; rows.next(); first = false)
			{
				if (!first)
					all.append(';');
				for (int i = 1; i <= columns; i++)
				{
					String value = rows.getString(i);

					all.append(i == 1 ? "" : "|").append(value == null ? "null" : value);
				}
			}
		}
		return all.toString();
	}

	private static String run(String name, String sql) throws SQLException
	{
		try (Statement statement = connections.get(name).createStatement())
		{
			return rows(statement, statement.execute(sql));
		}
	}

	/* Leaves the portal open, with more rows to come. */
	private static String firstRow(String name, String sql) throws SQLException
	{
		Statement statement = connections.get(name).createStatement();

		statement.setFetchSize(1);
		statement.closeOnCompletion();
		ResultSet rows = statement.executeQuery(sql);
		rows.next();
		open.put(name, rows);
		return rows.getString(1);
	}

	private static String runPrepared(String[] fields) throws SQLException
	{
		String sql = fields[2].replaceAll("\\$\\d", "?");

		try (PreparedStatement statement = connections.get(fields[1]).prepareStatement(sql))
		{
			for (int i = 3; i < fields.length; i++)
			{
				String value = fields[i].substring(2);

				if (fields[i].charAt(0) == 'i')
					statement.setLong(i - 2, Long.parseLong(value));
				else
					statement.setString(i - 2, value);
			}
			return rows(statement, statement.execute());
		}
	}

	private static String release(String[] fields) throws SQLException
	{
		int refused = 0;

		for (int i = 0; i < Integer.parseInt(fields[1]); i++)
		{
			run(fields[2], fields[4]);
			if (run(fields[3], fields[5]).equals("f"))
				refused++;
		}
		return Integer.toString(refused);
	}

	private static void end(Connection connection, boolean commits) throws SQLException
	{
		try
		{
			if (commits)
				connection.commit();
			else
				connection.rollback();
		}
		finally
		{
			if (!connection.isClosed())
				connection.setAutoCommit(true);
		}
	}

	private static String command(String[] fields) throws SQLException
	{
		switch (fields[0])
		{
			case "open":
				connections.put(fields[1], DriverManager.getConnection(
					"jdbc:postgresql://127.0.0.1:" + System.getenv(fields[2]) + "/postgres",
					"postgres", ""));
				return "";
			case "close":
				connections.get(fields[1]).close();
				return "";
			case "q":
				return run(fields[1], fields[2]);
			case "p":
				return runPrepared(fields);
			case "portal":
				return firstRow(fields[1], fields[2]);
			case "begin":
				connections.get(fields[1]).setAutoCommit(false);
				return "";
			case "release":
				return release(fields);
			default:
				end(connections.get(fields[1]), fields[0].equals("commit"));
				return "";
		}
	}

	public static void main(String[] args) throws Exception
	{
		BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
		PrintStream out = new PrintStream(System.out, true, "UTF-8");

		for (String line; (line = in.readLine()) != null;)
		{
			try
			{
				out.println("ok\t" + command(line.split("\t")));
			}
			catch (SQLException e)
			{
				String state = e.getSQLState();

				out.println("error\t" + (state == null || state.startsWith("08") ? "closed" : state));
			}
		}
		System.exit(0);
	}
}
