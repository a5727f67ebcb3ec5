import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

/** Prints the answers, one row a line, columns separated by a tab: DRIVER CONNINFO STATEMENT..., all on one connection. */
public class SqlClient {
    public static void main(String[] arguments) {
        var given = new Properties();
        for (var pair : arguments[1].trim().split(" +")) {
            var parts = pair.split("=", 2);
            given.setProperty(parts[0], parts[1]);
        }
        var url = "jdbc:" + arguments[0] + "://" + given.remove("host") + ":" + given.remove("port") + "/" + given.remove("dbname");
        given.setProperty("loginTimeout", "20");
        try (var connection = DriverManager.getConnection(url, given)) {
            for (var place = 2; place < arguments.length; place++) {
                try (var statement = connection.prepareStatement(arguments[place])) {
                    statement.setQueryTimeout(60);
                    if (!statement.execute()) {
                        continue;
                    }
                    var rows = statement.getResultSet();
                    while (rows.next()) {
                        var line = new StringBuilder();
                        for (var column = 1; column <= rows.getMetaData().getColumnCount(); column++) {
                            line.append(column == 1 ? "" : "\t").append(rows.getString(column));
                        }
                        System.out.println(line);
                    }
                }
            }
        } catch (SQLException error) {
            System.err.println(error.getSQLState() + ": " + error.getMessage());
            System.exit(1);
        }
    }
}
