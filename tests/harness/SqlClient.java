import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

/** Prints the first column of the answer: CONNINFO STATEMENT. */
public class SqlClient {
    public static void main(String[] arguments) {
        var given = new Properties();
        for (var pair : arguments[0].trim().split(" +")) {
            var parts = pair.split("=", 2);
            given.setProperty(parts[0], parts[1]);
        }
        var url = "jdbc:postgresql://" + given.remove("host") + ":" + given.remove("port") + "/" + given.remove("dbname");
        given.setProperty("loginTimeout", "20");
        try (var connection = DriverManager.getConnection(url, given); var statement = connection.createStatement()) {
            statement.setQueryTimeout(60);
            var rows = statement.executeQuery(arguments[1]);
            while (rows.next()) {
                System.out.println(rows.getString(1));
            }
        } catch (SQLException error) {
            System.err.println(error.getSQLState() + ": " + error.getMessage());
            System.exit(1);
        }
    }
}
