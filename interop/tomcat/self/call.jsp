<%@ page contentType="text/plain" import="java.net.*, java.io.*" %><%
// A page that asks the front end for another page of the same application.
HttpURLConnection connection = (HttpURLConnection) new URL(System.getProperty("sumun.front") + "/self/other.jsp").openConnection();
connection.setConnectTimeout(30000);
connection.setReadTimeout(30000);
int status = connection.getResponseCode();
InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream();
if (body != null) { body.readAllBytes(); body.close(); }
if (status != 200) { response.setStatus(502); }
%>inner page: <%= status %>
